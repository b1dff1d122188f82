package channels

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/fault"
)

// Errors of this package.
var (
	ErrNotFound = fault.New(fault.NotFound, "channel_not_found", "no such channel; countersign channel list shows what there is")
	ErrInvalid  = fault.New(fault.Invalid, "bad_channel", "the channel is not valid")
	ErrReason   = fault.New(fault.Invalid, "reason_required", "say why (--reason), in 1 to 1000 bytes of text")
	ErrOwner    = fault.New(fault.Invalid, "unknown_owner", "the owner must be an existing user")
	ErrSigned   = fault.New(fault.Unauthenticated, "not_signed", "the request is not signed by the chat service, is too old, or was seen before")
	ErrCallback = fault.New(fault.Invalid, "bad_callback", "the request from the chat service could not be understood")
	ErrNoLink   = fault.New(fault.Unsupported, "no_accounts", "only channels of kind slack have accounts to link")
	ErrUnlinked = fault.New(fault.NotFound, "not_linked", "no account of yours is linked to this channel")
)

// The kinds of channels.
const (
	Webhook = "webhook" // signed JSON to a URL
	Slack   = "slack"   // messages with buttons
	Notice  = "notice"  // a text through a shoutrrr service, e-mail among them
)

// Spec is what a person says of a channel.
type Spec struct {
	Kind  string `json:"kind" enum:"webhook,slack,notice"`
	Owner string `json:"owner" doc:"who answers for it"`
	// URL is where a webhook goes; of Slack, the base of its Web API.
	URL string `json:"url,omitempty" doc:"of a webhook: where it goes; of slack: its Web API, if not https://slack.com/api"`
	// Secret names what signs (webhook), the bot token (slack) or the service URL
	// (notice). It belongs to the connection "channel.NAME".
	Secret string `json:"secret" doc:"name of the secret: what signs a webhook, Slack's bot token, or a notice's service URL"`
	// Signing names Slack's signing secret.
	Signing string `json:"signing_secret,omitempty" doc:"of slack: name of the secret that signs its callbacks"`
	// Room is the Slack conversation that is written to.
	Room   string           `json:"room,omitempty" doc:"of slack: id of the conversation, such as C0123ABCD"`
	Groups []string         `json:"groups,omitempty" doc:"only requests that ask one of these groups; empty: all"`
	What   []approvals.What `json:"what,omitempty" doc:"only this news: requested, escalated, settled, overridden, asked, answered; empty: all of it"`
	// People sends e-mail to those whom the news is for, in the place of whom the URL names.
	People       bool `json:"people,omitempty" doc:"of a notice by smtp: mail goes to those whom the news is for"`
	Contents     bool `json:"contents,omitempty" doc:"a webhook or notice tells what is in a call, too (redacted)"`
	AllowPrivate bool `json:"allow_private,omitempty" doc:"the URL may be a private address, and http"`
}

// Channel is a way to tell people.
type Channel struct {
	ID, Name string
	Spec
	Created, Updated time.Time
}

// Connection is the name under which a channel's secrets belong to it. No
// connection can have it: their names have no dots.
func (c Channel) Connection() string { return Connection(c.Name) }

// Connection is the name under which a channel's secrets belong to it.
func Connection(channel string) string { return Prefix + channel }

// Prefix begins what secrets of channels give as their connection.
const Prefix = "channel."

const slackAPI = "https://slack.com/api"

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,49}$`)
	roomForm = regexp.MustCompile(`^[A-Z0-9]{2,30}$`)
)

func bad(format string, args ...any) error { return ErrInvalid.Say(format, args...) }

// Normalize returns c with its defaults, or what is wrong with it (ErrInvalid).
func (c Channel) Normalize() (Channel, error) {
	c.Groups, c.What = slices.Compact(slices.Sorted(slices.Values(c.Groups))), slices.Compact(slices.Sorted(slices.Values(c.What)))
	switch {
	case !nameForm.MatchString(c.Name):
		return c, bad("name: must be 1 to 50 lower-case letters, digits and hyphens")
	case c.Owner == "":
		return c, bad("owner: a channel needs an owner, the user who answers for it")
	case c.Secret == "":
		return c, bad("secret: name the secret; it belongs to the connection %s", c.Connection())
	}
	for _, w := range c.What {
		if !slices.Contains(approvals.Whats, w) {
			return c, bad("what: %.20q is no news", w)
		}
	}
	return c, c.checkKind()
}

func (c *Channel) checkKind() error {
	if c.Kind == Slack && c.URL == "" {
		c.URL = slackAPI
	}
	u, err := url.Parse(c.URL)
	plain := err == nil && (u.Scheme == "https" || u.Scheme == "http" && c.AllowPrivate) && u.Host != "" && u.User == nil && u.Fragment == "" && len(c.URL) <= 2048
	switch {
	case c.Kind != Webhook && c.Kind != Slack && c.Kind != Notice:
		return bad("kind: must be webhook, slack or notice")
	case c.Kind != Notice && !plain:
		return bad("url: must begin with https://, or with http:// for a private address with allow_private, and hold no user")
	case c.Kind == Notice && (c.URL != "" || c.AllowPrivate):
		return bad("url: a notice's URL is its secret; leave url and allow_private out")
	case c.Kind == Slack && (c.Signing == "" || !roomForm.MatchString(c.Room)):
		return bad("room: slack needs signing_secret and room, the id of a conversation such as C0123ABCD")
	case c.Kind != Slack && (c.Signing != "" || c.Room != ""):
		return bad("room: only slack has a signing_secret and a room")
	case c.Kind != Notice && c.People:
		return bad("people: only a notice (by smtp) reaches people by their addresses")
	}
	return nil
}

func (c Channel) same(d Channel) bool { return text(c.Spec) == text(d.Spec) }

// wants reports whether a channel tells a piece of news.
func (c Channel) wants(n approvals.News) bool {
	if len(c.What) > 0 && !slices.Contains(c.What, n.What) {
		return false
	}
	if n.What == approvals.Asked || n.What == approvals.Answered { // between two people
		return c.People
	}
	return len(c.Groups) == 0 || slices.ContainsFunc(groupsOf(n.Request), func(g string) bool { return slices.Contains(c.Groups, g) })
}

func groupsOf(r approvals.Request) []string {
	var out []string
	for _, n := range r.Needs {
		for _, g := range n.Groups {
			out = append(out, g.Name)
		}
		for _, t := range n.Tiers {
			out = append(out, t.Name)
		}
	}
	return out
}

func checkReason(reason string, must bool) error {
	if len(reason) > 1000 || strings.ContainsRune(reason, 0) || must && strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	return nil
}
