package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// ReviewScope says what a review is about; empty lists select everything.
type ReviewScope struct {
	Kinds       []string `json:"kinds,omitempty"` // grant (if none is named), secret, owner, connection, trust
	Agents      []string `json:"agents,omitempty"`
	Teams       []string `json:"teams,omitempty"`
	Stages      []string `json:"stages,omitempty"`
	Connections []string `json:"connections,omitempty"`
	Names       []string `json:"names,omitempty"`
	Only        []string `json:"only,omitempty"` // new, unused, wide, risky
	All         bool     `json:"all,omitempty"`
	UnusedFor   string   `json:"unused_for,omitempty"`
}

// ReviewRules say who reviews and what happens if they do not.
type ReviewRules struct {
	Levels   [][]string `json:"levels,omitempty"`
	Apart    bool       `json:"apart,omitempty"`
	Escalate []string   `json:"escalate,omitempty"`
	Silence  string     `json:"silence,omitempty"` // revoke, keep, escalate
	Remind   []string   `json:"remind,omitempty"`
	Grace    string     `json:"grace,omitempty"`
}

// ReviewSpec is what a person says of a review that they start.
type ReviewSpec struct {
	Name  string      `json:"name,omitempty"`
	Scope ReviewScope `json:"scope,omitzero"`
	Rules ReviewRules `json:"rules,omitzero"`
	Due   time.Time   `json:"due,omitzero"`
}

// ReviewPerson is a user, by identifier and by the name they had.
type ReviewPerson struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name"`
}

// ReviewSubject is something that is kept or revoked.
type ReviewSubject struct {
	Kind            string         `json:"kind"`
	Name            string         `json:"name"`
	ID              string         `json:"id"`
	Says            string         `json:"says"`
	Agent           string         `json:"agent,omitempty"`
	Connection      string         `json:"connection,omitempty"`
	Tools           []string       `json:"tools,omitempty"`
	Owner           string         `json:"owner,omitempty"`
	Backup          string         `json:"backup,omitempty"`
	ConnectionOwner string         `json:"connection_owner,omitempty"`
	Givers          []ReviewPerson `json:"givers,omitempty"`
	Since           time.Time      `json:"since,omitzero"`
	Expires         time.Time      `json:"expires,omitzero"`
	Use             struct {
		Watched time.Time `json:"watched,omitzero"`
		Last    time.Time `json:"last,omitzero"`
	} `json:"use"`
	Flags   []string `json:"flags,omitempty"`
	Suggest string   `json:"suggest,omitempty"`
	Version int64    `json:"version,omitempty"`
	Digest  string   `json:"digest"`
}

// ReviewVerdict is one person's answer, or that of silence.
type ReviewVerdict struct {
	By       ReviewPerson `json:"by"`
	Level    int          `json:"level"`
	Decision string       `json:"decision"`
	Reason   string       `json:"reason,omitempty"`
	At       time.Time    `json:"at"`
	Event    string       `json:"event"`
}

// ReviewHandover says that someone else reviews in the place of another.
type ReviewHandover struct {
	From  ReviewPerson `json:"from"`
	To    ReviewPerson `json:"to"`
	Level int          `json:"level"`
	Note  string       `json:"note"`
	At    time.Time    `json:"at"`
	Event string       `json:"event"`
}

// ReviewProbe is a call that was tried after a revoke.
type ReviewProbe struct {
	What   string `json:"what"`
	Result string `json:"result"` // refused, allowed_otherwise, let_through, not_tried
	Why    string `json:"why,omitempty"`
	Event  string `json:"event,omitempty"`
}

// ReviewUse is the use of a grant after the decision to revoke it.
type ReviewUse struct {
	Calls int       `json:"calls"`
	Last  time.Time `json:"last"`
	Event string    `json:"event"`
}

// ReviewRemedy is what became of a revoke.
type ReviewRemedy struct {
	Done   string        `json:"done,omitempty"`
	At     time.Time     `json:"at,omitzero"`
	Tries  int           `json:"tries,omitempty"`
	Error  string        `json:"error,omitempty"`
	Probes []ReviewProbe `json:"probes,omitempty"`
	Used   *ReviewUse    `json:"used,omitempty"`
	To     string        `json:"to,omitempty"`
}

// ReviewItem is one thing that a review asks about.
type ReviewItem struct {
	ID          string           `json:"id"`
	Review      string           `json:"review"`
	N           int              `json:"n"`
	Subject     ReviewSubject    `json:"subject"`
	Level       int              `json:"level"`
	Handovers   []ReviewHandover `json:"handovers,omitempty"`
	Escalated   time.Time        `json:"escalated,omitzero"`
	Why         string           `json:"why,omitempty"`
	Decision    string           `json:"decision,omitempty"` // keep, revoke, gone
	Decided     time.Time        `json:"decided,omitzero"`
	Verdicts    []ReviewVerdict  `json:"verdicts,omitempty"`
	Remediation string           `json:"remediation"` // none, open, executed, success, unproven, error, manual
	Remedy      ReviewRemedy     `json:"remedy,omitzero"`
	Events      []string         `json:"events"`
	Reviewers   []string         `json:"reviewers,omitempty"`
}

// Review is a campaign, or a question that was asked because something changed.
type Review struct {
	ID       string       `json:"id"`
	Name     string       `json:"name"`
	Question string       `json:"question,omitempty"`
	Scope    ReviewScope  `json:"scope"`
	Rules    ReviewRules  `json:"rules"`
	State    string       `json:"state"` // open, decided, closed
	By       ReviewPerson `json:"by"`
	Reason   string       `json:"reason"`
	Created  time.Time    `json:"created"`
	Due      time.Time    `json:"due"`
	Overdue  bool         `json:"overdue,omitempty"`
	Closed   time.Time    `json:"closed,omitzero"`
	ClosedBy string       `json:"closed_by,omitempty"`
	Event    string       `json:"event"`
	Reminded int          `json:"reminded,omitempty"`
	Counts   struct {
		Items   int `json:"items"`
		Open    int `json:"open"`
		Kept    int `json:"kept"`
		Revoked int `json:"revoked"`
		Gone    int `json:"gone"`
		Pending int `json:"pending"`
		Failed  int `json:"failed"`
	} `json:"counts"`
	Items []ReviewItem `json:"items,omitempty"`
}

// ReviewWaits is an item that waits for you.
type ReviewWaits struct {
	ID       string     `json:"id"`
	Review   string     `json:"review"`
	Question string     `json:"question,omitempty"`
	Due      time.Time  `json:"due"`
	Item     ReviewItem `json:"item"`
}

func reviewPath(review string) string { return v1 + "/reviews" + segment(review) }

// Reviews lists reviews, the latest first, without items; questions if asked for.
func (c *Client) Reviews(ctx context.Context, questions bool) ([]Review, error) {
	q := url.Values{}
	if questions {
		q.Set("questions", "true")
	}
	return get[[]Review](ctx, c, v1+"/reviews", q)
}

// Review returns one review with its items, by name or identifier.
func (c *Client) Review(ctx context.Context, review string) (Review, error) {
	return get[Review](ctx, c, reviewPath(review), nil)
}

// StartReview starts a review.
func (c *Client) StartReview(ctx context.Context, spec ReviewSpec) (Review, error) {
	return send[Review](ctx, c, http.MethodPost, v1+"/reviews", spec)
}

// MyReviews lists what waits for your decision.
func (c *Client) MyReviews(ctx context.Context) ([]ReviewWaits, error) {
	return get[[]ReviewWaits](ctx, c, v1+"/reviews/mine", nil)
}

func itemPath(review string, n int) string { return reviewPath(review) + "/items/" + strconv.Itoa(n) }

// DecideReview keeps or revokes one thing. to is, of an owner that is revoked, who
// is to be the next; the backup if it is empty.
func (c *Client) DecideReview(ctx context.Context, review string, n int, decision, to string) (ReviewItem, error) {
	return send[ReviewItem](ctx, c, http.MethodPost, itemPath(review, n)+"/decide", struct {
		Decision string `json:"decision"`
		To       string `json:"to,omitempty"`
	}{decision, to})
}

// DelegateReview hands an item to another reviewer; the reason is the note.
func (c *Client) DelegateReview(ctx context.Context, review string, n int, to string) (ReviewItem, error) {
	return send[ReviewItem](ctx, c, http.MethodPost, itemPath(review, n)+"/delegate", struct {
		To string `json:"to"`
	}{to})
}

// CloseReview ends a review before its time.
func (c *Client) CloseReview(ctx context.Context, review string) (Review, error) {
	return send[Review](ctx, c, http.MethodPost, reviewPath(review)+"/close", struct{}{})
}

// ExportedReview is a review with a proof file of every event of it.
type ExportedReview struct {
	Format   string            `json:"format"`
	Exported time.Time         `json:"exported"`
	By       string            `json:"by"`
	Review   Review            `json:"review"`
	Proofs   map[string]string `json:"proofs"`
}

// ExportReview returns a review with the proofs that the log says so.
func (c *Client) ExportReview(ctx context.Context, review string) (ExportedReview, error) {
	return send[ExportedReview](ctx, c, http.MethodPost, reviewPath(review)+"/export", struct{}{})
}
