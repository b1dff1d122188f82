package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Approval is a held call that waits, or waited, for people.
type Approval struct {
	ID         string    `json:"id"`
	State      string    `json:"state"` // pending, approved, executing, executed, denied, expired, void
	Summary    string    `json:"summary"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tool       string    `json:"tool"`
	Effect     string    `json:"effect"`
	Groups     []string  `json:"groups"` // who may decide now
	Mine       bool      `json:"mine"`   // whether the caller may
	Created    time.Time `json:"created"`
	DecideBy   time.Time `json:"decide_by"`
	ExecuteBy  time.Time `json:"execute_by,omitzero"`
	SendAt     time.Time `json:"send_at,omitzero"` // it is sent then, and can be cancelled before
	Why        string    `json:"why,omitempty"`
	Outcome    string    `json:"outcome,omitempty"`
	Override   bool      `json:"override,omitempty"`
}

// ApprovalDetail is a request with everything about it.
type ApprovalDetail struct {
	Approval
	Digest    string            `json:"digest"`
	Binding   map[string]any    `json:"binding"`
	Call      string            `json:"call"`
	Run       string            `json:"run"`
	Event     string            `json:"event"`
	Reason    string            `json:"reason"`
	Needs     []ApprovalNeed    `json:"needs"`
	Decisions []ApprovalVote    `json:"decisions"`
	Excluded  []string          `json:"excluded,omitempty"`
	Executed  string            `json:"executed_as,omitempty"`
	Passkey   bool              `json:"passkey"` // whoever approves signs with their passkey
	Server    bool              `json:"server"`
	View      *ApprovalView     `json:"view,omitempty"`
	Comments  []ApprovalComment `json:"comments,omitempty"`
}

// ApprovalNeed is what one policy demands.
type ApprovalNeed struct {
	Policy       string   `json:"policy"`
	Groups       []string `json:"groups"`
	Quorum       int      `json:"quorum"`
	Advice       string   `json:"advice,omitempty"`
	Text         string   `json:"text,omitempty"` // the policy itself, in Cedar
	ExcludeOwner bool     `json:"exclude_owner,omitempty"`
	Tiers        []string `json:"tiers,omitempty"`
}

// ApprovalVote is one person's decision and what the server signed about it.
type ApprovalVote struct {
	Person    string    `json:"person"`
	PersonID  string    `json:"person_id"`
	Verdict   string    `json:"verdict"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
	For       string    `json:"stands_in_for,omitempty"`
	Channel   string    `json:"channel"`
	Passkey   bool      `json:"passkey"` // the person's own signature is in the statement
	Statement string    `json:"statement"`
	Signature string    `json:"signature"`
}

// ApprovalView is what people see of a held call. All of it that came from the
// agent is inert.
type ApprovalView struct {
	Summary   string             `json:"summary"`            // the call in plain words
	Parts     []ApprovalPart     `json:"parts,omitempty"`    // the summary in pieces
	Template  string             `json:"template,omitempty"` // what made the summary; empty: the arguments
	Arguments []ApprovalArgument `json:"arguments"`
	Values    []ApprovalValue    `json:"values,omitempty"`   // of the arguments that matter, and where each comes from
	Redacted  []string           `json:"redacted,omitempty"` // names of arguments of which something is not shown
	Cut       int64              `json:"cut,omitempty"`      // bytes of the arguments that are not shown
	Missing   string             `json:"missing,omitempty"`  // why there are no arguments
	Agent     ApprovalAgent      `json:"agent"`
	Undo      ApprovalUndo       `json:"undo"`
	Before    []ApprovalStep     `json:"before,omitempty"`      // what the run did before, oldest first
	More      int                `json:"before_more,omitempty"` // calls before those
	Read      []ApprovalSource   `json:"read,omitempty"`        // what it read, newest first
	Last      []ApprovalCompared `json:"last_approved,omitempty"`
	Proposals []ApprovalProposal `json:"proposals,omitempty"` // decision support that the call follows
}

// ApprovalPart is a piece of a sentence. With a Name it is the call's own.
type ApprovalPart struct {
	Text string `json:"text"`
	Name string `json:"name,omitempty"`
}

// ApprovalAgent says who asks and who answers for it.
type ApprovalAgent struct {
	Name    string `json:"name"`
	Owner   string `json:"owner,omitempty"`
	Backup  string `json:"backup,omitempty"`
	Team    string `json:"team,omitempty"`
	Stage   string `json:"stage,omitempty"`
	Purpose string `json:"purpose,omitempty"`
	Process string `json:"business_process,omitempty"`
}

// ApprovalUndo says what can be taken back.
type ApprovalUndo struct {
	Effect string `json:"effect"` // read, write, irreversible
	Text   string `json:"text"`
}

// ApprovalArgument is one argument, by its path. Odd says what is unusual
// about its characters.
type ApprovalArgument struct {
	Name     string `json:"name"`
	Value    string `json:"value"`
	Odd      string `json:"odd,omitempty"`
	Redacted bool   `json:"redacted,omitempty"`
}

// ApprovalValue is one value of an argument that matters, and where it comes from.
type ApprovalValue struct {
	Arg    string `json:"arg"`
	Role   string `json:"role"` // recipient, object, amount, secret
	Value  string `json:"value"`
	Origin string `json:"origin,omitempty"` // empty: nothing endorses it
	Said   string `json:"said"`             // the same in words
	Call   string `json:"call,omitempty"`   // that brought the record
}

// ApprovalStep is what the run did before.
type ApprovalStep struct {
	Call    string    `json:"call"`
	Tool    string    `json:"tool"`
	What    string    `json:"what"` // made, denied, held, refused
	At      time.Time `json:"at"`
	Labels  []string  `json:"labels,omitempty"`
	Effect  string    `json:"effect,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
	Objects []string  `json:"objects,omitempty"`
}

// ApprovalSource is content that came into the run from elsewhere.
type ApprovalSource struct {
	Call      string    `json:"call"`
	Tool      string    `json:"tool"`
	At        time.Time `json:"at"`
	Labels    []string  `json:"labels,omitempty"`
	Untrusted bool      `json:"untrusted"` // labelled so; false: nothing said so
	Excerpt   string    `json:"excerpt,omitempty"`
	Missing   string    `json:"missing,omitempty"`
}

// ApprovalCompared says how the call differs from an earlier approved one.
type ApprovalCompared struct {
	ID        string           `json:"id"`
	At        time.Time        `json:"at"`
	Approvers []string         `json:"approvers"`
	State     string           `json:"state"`
	Outcome   string           `json:"outcome,omitempty"`
	Changes   []ApprovalChange `json:"changes"` // empty: the same arguments
	Missing   string           `json:"missing,omitempty"`
}

// ApprovalChange is how one argument differs.
type ApprovalChange struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // changed, new, gone
	Then string `json:"then,omitempty"`
	Now  string `json:"now,omitempty"`
}

// ApprovalProposal is decision support that the run of a held call got before.
type ApprovalProposal struct {
	ID     string    `json:"id"` // of the call that answered with it
	Kind   string    `json:"kind"`
	Source string    `json:"source"` // connection/tool
	At     time.Time `json:"at"`
}

// ApprovalComment is a remark.
type ApprovalComment struct {
	Person string    `json:"person"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
	Asked  string    `json:"asked,omitempty"`
}

// Delegation lets one person decide in another's place for a time.
type Delegation struct {
	ID     string    `json:"id"`
	Giver  string    `json:"giver"`
	Taker  string    `json:"taker"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
}

// ApprovalQuery narrows a list. Empty fields select everything.
type ApprovalQuery struct {
	State, Agent string
	Before       string // the id of the last request of the page before
	Limit        int    // 0: 100, at most 1000
	Wait         int    // seconds to wait for a change before answering, at most 50
}

// Approvals lists requests, the newest first.
func (c *Client) Approvals(ctx context.Context, q ApprovalQuery) ([]Approval, error) {
	query := url.Values{}
	for name, value := range map[string]string{"state": q.State, "agent": q.Agent, "before": q.Before} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, value := range map[string]int{"limit": q.Limit, "wait": q.Wait} {
		if value > 0 {
			query.Set(name, strconv.Itoa(value))
		}
	}
	return get[[]Approval](ctx, c, v1+"/approvals", query)
}

// Approval returns a request. With wait it waits so many seconds, at most 50,
// until it is settled.
func (c *Client) Approval(ctx context.Context, id string, wait int) (ApprovalDetail, error) {
	query := url.Values{}
	if wait > 0 {
		query.Set("wait", strconv.Itoa(wait))
	}
	return get[ApprovalDetail](ctx, c, v1+"/approvals"+segment(id), query)
}

// DecideApproval approves or denies a request. passkey is the assertion over
// what ApprovalChallenge asked for (PublicKeyCredential.toJSON), empty if there is none.
func (c *Client) DecideApproval(ctx context.Context, id, verdict, passkey string) (ApprovalDetail, error) {
	return send[ApprovalDetail](ctx, c, http.MethodPost, v1+"/approvals"+segment(id)+"/decision", struct {
		Verdict string `json:"verdict"`
		Passkey string `json:"passkey,omitempty"`
	}{verdict, passkey})
}

// BreakGlass approves a request in an emergency; passkey is as in DecideApproval.
func (c *Client) BreakGlass(ctx context.Context, id, passkey string) (ApprovalDetail, error) {
	return send[ApprovalDetail](ctx, c, http.MethodPost, v1+"/approvals"+segment(id)+"/override", struct {
		Passkey string `json:"passkey,omitempty"`
	}{passkey})
}

// WithdrawApproval ends a request that nobody shall decide about any more.
func (c *Client) WithdrawApproval(ctx context.Context, id string) (ApprovalDetail, error) {
	return send[ApprovalDetail](ctx, c, http.MethodPost, v1+"/approvals"+segment(id)+"/withdraw", struct{}{})
}

// CommentApproval adds a remark; ask puts it to the agent's owner.
func (c *Client) CommentApproval(ctx context.Context, id, text string, ask bool) error {
	return c.do(ctx, http.MethodPost, v1+"/approvals"+segment(id)+"/comments", nil, map[string]any{"text": text, "ask": ask}, nil)
}

// ApprovalKey returns the public key of decisions' signatures (base64 Ed25519).
func (c *Client) ApprovalKey(ctx context.Context) (string, error) {
	k, err := get[struct {
		Key string `json:"key"`
	}](ctx, c, v1+"/approvals/key", nil)
	return k.Key, err
}

// Delegations lists delegations in force or to come.
func (c *Client) Delegations(ctx context.Context) ([]Delegation, error) {
	return get[[]Delegation](ctx, c, v1+"/approvals/delegations", nil)
}

// Delegate lets taker decide in giver's place (empty: the caller's) from since
// (zero: now) until until.
func (c *Client) Delegate(ctx context.Context, giver, taker string, since, until time.Time) (Delegation, error) {
	in := map[string]any{"taker": taker, "until": until}
	if giver != "" {
		in["giver"] = giver
	}
	if !since.IsZero() {
		in["since"] = since
	}
	return send[Delegation](ctx, c, http.MethodPost, v1+"/approvals/delegations", in)
}

// EndDelegation ends a delegation before its time.
func (c *Client) EndDelegation(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, v1+"/approvals/delegations"+segment(id)+"/end", nil, struct{}{}, nil)
}

// Notice is something that the caller has to see.
type Notice struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"` // asked, answered, overridden
	Approval string    `json:"approval"`
	By       string    `json:"by"`
	Said     string    `json:"said,omitempty"`
	Line     string    `json:"line"` // all of it in one line
	At       time.Time `json:"at"`
	Seen     time.Time `json:"seen,omitzero"`
}

// Notices lists what the caller has to see, with all also what they have seen.
func (c *Client) Notices(ctx context.Context, all bool) ([]Notice, error) {
	query := url.Values{}
	if all {
		query.Set("all", "true")
	}
	return get[[]Notice](ctx, c, v1+"/notices", query)
}

// SeeNotice says that the caller has seen a notice.
func (c *Client) SeeNotice(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, v1+"/notices"+segment(id)+"/seen", nil, struct{}{}, nil)
}

// ApprovalStats is what it costs that calls wait for people.
type ApprovalStats struct {
	Since    time.Time        `json:"since"`
	Until    time.Time        `json:"until"`
	Policies []ApprovalPolicy `json:"policies"`
	People   []ApprovalPerson `json:"people"`
	Cut      bool             `json:"cut,omitempty"` // only the newest were counted
}

// ApprovalPolicy is what one policy held. Times are in seconds.
type ApprovalPolicy struct {
	ID       string          `json:"id"`
	Held     int             `json:"held"`
	Pending  int             `json:"pending"`
	Approved int             `json:"approved"`
	Denied   int             `json:"denied"`
	Lapsed   int             `json:"lapsed"`
	Share    float64         `json:"approved_share"` // of those decided, 0 to 1
	Median   float64         `json:"median_wait_seconds"`
	P95      float64         `json:"p95_wait_seconds"`
	Agents   float64         `json:"agent_seconds"`    // how long agents' work stood still
	Narrow   *ApprovalNarrow `json:"narrow,omitempty"` // the policy may hold too much
}

// ApprovalNarrow suggests that a policy holds less.
type ApprovalNarrow struct {
	Approved int             `json:"approved"` // so many in a row
	Ranges   []ApprovalRange `json:"ranges"`
	Advice   string          `json:"advice"`
}

// ApprovalRange is what one argument was.
type ApprovalRange struct {
	Tool   string   `json:"tool"`
	Name   string   `json:"name"`
	Min    string   `json:"min,omitempty"`
	Max    string   `json:"max,omitempty"`
	Values []string `json:"values,omitempty"`
	Many   int      `json:"many,omitempty"`
}

// ApprovalPerson is how one person decides.
type ApprovalPerson struct {
	ID      string  `json:"id"`
	Name    string  `json:"name"`
	Decided int     `json:"decided"`
	Yes     int     `json:"approved"`
	Quick   int     `json:"quick"` // within two seconds
	Median  float64 `json:"median_wait_seconds"`
	Bulk    bool    `json:"bulk"`
}

// ApprovalStats returns the price of governance of the last days (0: 30).
func (c *Client) ApprovalStats(ctx context.Context, days int) (ApprovalStats, error) {
	query := url.Values{}
	if days > 0 {
		query.Set("days", strconv.Itoa(days))
	}
	return get[ApprovalStats](ctx, c, v1+"/approvals/stats", query)
}
