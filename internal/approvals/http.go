package approvals

import (
	"context"
	"encoding/base64"
	"encoding/json/jsontext"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/inert"
	"github.com/countersign/countersign/internal/rest"
)

// Row is a request in a listing.
type Row struct {
	ID         string    `json:"id"`
	State      State     `json:"state" enum:"pending,approved,executing,executed,denied,expired,void"`
	Summary    string    `json:"summary" doc:"what the call is about, in plain words"`
	Agent      string    `json:"agent"`
	Connection string    `json:"connection"`
	Tool       string    `json:"tool"`
	Effect     string    `json:"effect"`
	Groups     []string  `json:"groups" doc:"who may decide now"`
	Mine       bool      `json:"mine" doc:"whether the caller may decide"`
	Created    time.Time `json:"created"`
	DecideBy   time.Time `json:"decide_by"`
	ExecuteBy  time.Time `json:"execute_by,omitzero"`
	SendAt     time.Time `json:"send_at,omitzero" doc:"it is sent then, and can be cancelled before"`
	Why        string    `json:"why,omitempty" doc:"why it is in its state"`
	Outcome    string    `json:"outcome,omitempty" doc:"of an executed one: how the call ended"`
	Override   bool      `json:"override,omitempty" doc:"the glass was broken"`
}

// Detail is a request with everything about it.
type Detail struct {
	Row
	Digest    string        `json:"digest"`
	Binding   Binding       `json:"binding"`
	Call      string        `json:"call"`
	Run       string        `json:"run"`
	Event     string        `json:"event"`
	Reason    string        `json:"reason" doc:"why it is held"`
	Needs     []NeedView    `json:"needs"`
	Decisions []VoteView    `json:"decisions"`
	Excluded  []string      `json:"excluded,omitempty" doc:"who may not decide, being part of it"`
	Executed  string        `json:"executed_as,omitempty" doc:"the call that used the approval"`
	Passkey   bool          `json:"passkey" doc:"whoever approves signs with their passkey"`
	Server    bool          `json:"server" doc:"the server makes the call when it is approved"`
	View      *View         `json:"view,omitempty" doc:"what people see of the call"`
	Comments  []CommentView `json:"comments,omitempty"`
}

// NeedView is one policy's demand.
type NeedView struct {
	Policy       string   `json:"policy"`
	Groups       []string `json:"groups"`
	Quorum       int      `json:"quorum"`
	Advice       string   `json:"advice,omitempty"`
	Text         string   `json:"text,omitempty" doc:"the policy itself, in Cedar, as it is in force"`
	ExcludeOwner bool     `json:"exclude_owner,omitempty"`
	Tiers        []string `json:"tiers,omitempty" doc:"who may decide too, and after how long"`
}

// VoteView is one person's decision, with what the server signed.
type VoteView struct {
	Person    string    `json:"person"`
	PersonID  string    `json:"person_id"`
	Verdict   Verdict   `json:"verdict"`
	Reason    string    `json:"reason"`
	At        time.Time `json:"at"`
	For       string    `json:"stands_in_for,omitempty"`
	Channel   string    `json:"channel"`
	Passkey   bool      `json:"passkey" doc:"the person's own signature is in the statement"`
	Statement string    `json:"statement" doc:"what is signed"`
	Signature string    `json:"signature" doc:"base64 Ed25519 over 'countersign approval decision v1', a line feed and the statement"`
}

// CommentView is a remark about a request.
type CommentView struct {
	Person string    `json:"person"`
	Text   string    `json:"text"`
	At     time.Time `json:"at"`
	Asked  string    `json:"asked,omitempty" doc:"the owner who was asked"`
}

type listRequest struct {
	State  State  `query:"state" enum:"pending,approved,executing,executed,denied,expired,void" doc:"all if empty"`
	Agent  string `query:"agent"`
	Before string `query:"before" maxLength:"64" doc:"the id of the last request of the page before"`
	Limit  int    `query:"limit" minimum:"0" maximum:"1000" doc:"100 if empty"`
	Wait   int    `query:"wait" minimum:"0" maximum:"50" doc:"wait at most so many seconds for any request to change before answering"`
}

type byID struct {
	ID   string `path:"id" maxLength:"64"`
	Wait int    `query:"wait" minimum:"0" maximum:"50" doc:"wait at most so many seconds for a decision before answering"`
}

type decideRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Verdict Verdict `json:"verdict" enum:"approve,deny"`
		Reason  string  `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
		Passkey string  `json:"passkey,omitempty" maxLength:"8192" doc:"the assertion over the challenge, as JSON text (PublicKeyCredential.toJSON)"`
	}
}

type challengeRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Verdict Verdict `json:"verdict" enum:"approve,deny"`
	}
}

// ChallengeView is what navigator.credentials.get needs, with userVerification
// "required".
type ChallengeView struct {
	Challenge   string   `json:"challenge" doc:"base64url; good once, for two minutes, in this session"`
	RP          string   `json:"rp_id" doc:"the domain that passkeys are for"`
	Origin      string   `json:"origin" doc:"the only origin whose pages may ask for it"`
	Credentials []string `json:"credentials" doc:"the caller's passkeys, base64url"`
}

type overrideRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason  string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
		Passkey string `json:"passkey,omitempty" maxLength:"8192" doc:"the assertion over the challenge, as JSON text (PublicKeyCredential.toJSON)"`
	}
}

type reasonRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Reason string `json:"reason,omitempty" doc:"why; else the header X-Countersign-Reason"`
	}
}

type commentRequest struct {
	ID   string `path:"id" maxLength:"64"`
	Body struct {
		Text string `json:"text" maxLength:"1000"`
		Ask  bool   `json:"ask,omitempty" doc:"ask the agent's owner"`
	}
}

// DelegationView is a delegation.
type DelegationView struct {
	ID     string    `json:"id"`
	Giver  string    `json:"giver"`
	Taker  string    `json:"taker"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
}

// NoticeView is something a person has to see.
type NoticeView struct {
	ID       string    `json:"id"`
	Kind     What      `json:"kind" enum:"asked,answered,overridden"`
	Approval string    `json:"approval"`
	By       string    `json:"by"`
	Said     string    `json:"said,omitempty"`
	Line     string    `json:"line" doc:"all of it in one line"`
	At       time.Time `json:"at"`
	Seen     time.Time `json:"seen,omitzero"`
}

type delegateRequest struct {
	Body struct {
		Giver  string    `json:"giver,omitempty" doc:"whose place is taken; the caller if empty"`
		Taker  string    `json:"taker"`
		Since  time.Time `json:"since,omitzero" doc:"now if empty"`
		Until  time.Time `json:"until"`
		Reason string    `json:"reason,omitempty"`
	}
}

// KeyView is the key that signs decisions.
type KeyView struct {
	Algorithm string `json:"algorithm"`
	Key       string `json:"key" doc:"base64"`
}

// Routes declares the room's operations. Who may decide about a request is no
// matter of a person's role but of the groups that the request needs.
func (s *Service) Routes(api *rest.API) {
	op := func(method, path, summary string) rest.Op {
		need := rest.Read
		if method != http.MethodGet {
			need = rest.Decide
		}
		return rest.Op{Method: method, Path: "/api/v1/approvals" + path, Summary: summary, Tag: "approvals", Need: need}
	}
	rest.Handle(api, op(http.MethodGet, "", "List requests for approval, newest first"), s.httpList)
	rest.Handle(api, op(http.MethodGet, "/key", "Show the key that signs decisions"), s.httpKey)
	stats := op(http.MethodGet, "/stats", "Show what it costs that calls wait, where policies hold too much, and who answers in bulk")
	stats.Need = rest.Inspect // ranges of arguments are contents
	rest.Handle(api, stats, s.httpStats)
	rest.Handle(api, op(http.MethodGet, "/delegations", "List delegations in force or to come"), s.httpDelegations)
	rest.Handle(api, op(http.MethodPost, "/delegations", "Let someone decide in another's place"), s.httpDelegate)
	rest.Handle(api, op(http.MethodPost, "/delegations/{id}/end", "End a delegation"), s.httpEndDelegation)
	self := func(method, path, summary string) rest.Op {
		return rest.Op{Method: method, Path: "/api/v1/notices" + path, Summary: summary, Tag: "approvals", Need: rest.Self}
	}
	rest.Handle(api, self(http.MethodGet, "", "List what you have to see"), s.httpNotices)
	rest.Handle(api, self(http.MethodPost, "/{id}/seen", "Say that you have seen a notice"), s.httpSee)
	rest.Handle(api, op(http.MethodGet, "/{id}", "Show a request"), s.httpGet)
	rest.Handle(api, op(http.MethodPost, "/{id}/decision", "Approve or deny a request"), s.httpDecide)
	rest.Handle(api, op(http.MethodPost, "/{id}/challenge", "Ask for what a passkey signs to decide about a request"), s.httpChallenge)
	rest.Handle(api, op(http.MethodPost, "/{id}/override", "Break the glass: approve in an emergency"), s.httpOverride)
	rest.Handle(api, op(http.MethodPost, "/{id}/withdraw", "Withdraw a request"), s.httpWithdraw)
	rest.Handle(api, op(http.MethodPost, "/{id}/comments", "Remark on a request, or ask the agent's owner"), s.httpComment)
}

func byOf(c rest.Caller) By {
	return By{Person: Person{ID: c.ID, Name: c.Name}, Credential: c.Credential, Channel: "api"}
}

func reasonOf(c rest.Caller, said string) string {
	if said == "" {
		return c.Reason
	}
	return said
}

func (s *Service) httpList(ctx context.Context, c rest.Caller, r *listRequest) (*[]Row, error) {
	if r.Wait > 0 {
		timer := time.NewTimer(time.Duration(r.Wait) * time.Second)
		defer timer.Stop()
		select {
		case <-s.hub.any():
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	found, err := s.List(ctx, Query{State: r.State, Agent: r.Agent, Before: r.Before, Limit: r.Limit})
	if err != nil {
		return nil, err
	}
	rows, err := s.rows(ctx, c, found)
	return &rows, err
}

func (s *Service) httpGet(ctx context.Context, c rest.Caller, r *byID) (*Detail, error) {
	if r.Wait > 0 {
		if _, err := s.Wait(ctx, r.ID, time.Duration(r.Wait)*time.Second, Pending, Approved, Executing); err != nil {
			return nil, err
		}
	}
	return s.detail(ctx, c, r.ID)
}

// signedIn refuses a token that was made for programs: whoever has it decides nothing,
// and lets nobody decide.
func signedIn(c rest.Caller) error {
	if c.Program {
		return ErrProgram
	}
	return nil
}

func (s *Service) httpDecide(ctx context.Context, c rest.Caller, r *decideRequest) (*Detail, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	if _, err := s.Decide(ctx, signedBy(c, r.Body.Passkey), r.ID, r.Body.Verdict, reasonOf(c, r.Body.Reason)); err != nil {
		return nil, err
	}
	return s.detail(ctx, c, r.ID)
}

// signedBy is a person with their own signature of their decision, if they gave one.
func signedBy(c rest.Caller, assertion string) By {
	by := byOf(c)
	if assertion != "" {
		by.Assertion = jsontext.Value(assertion)
	}
	return by
}

func (s *Service) httpChallenge(ctx context.Context, c rest.Caller, r *challengeRequest) (*ChallengeView, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	ch, err := s.Challenge(ctx, byOf(c), r.ID, r.Body.Verdict)
	if err != nil {
		return nil, err
	}
	return &ChallengeView{Challenge: base64.RawURLEncoding.EncodeToString(ch.Challenge), RP: ch.Domain, Origin: ch.Origin, Credentials: ch.Credentials}, nil
}

func (s *Service) httpOverride(ctx context.Context, c rest.Caller, r *overrideRequest) (*Detail, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	if _, err := s.Override(ctx, signedBy(c, r.Body.Passkey), r.ID, reasonOf(c, r.Body.Reason)); err != nil {
		return nil, err
	}
	return s.detail(ctx, c, r.ID)
}

// httpWithdraw is for the agent's owner and for who may change things.
func (s *Service) httpWithdraw(ctx context.Context, c rest.Caller, r *reasonRequest) (*Detail, error) {
	reason := reasonOf(c, r.Body.Reason)
	if err := checkReason(reason); err != nil {
		return nil, err
	}
	found, err := s.Get(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	if a, ok := s.identity.Agent(found.Binding.Agent); !c.May(rest.Write) && (!ok || a.Owner != c.Name) {
		return nil, ErrNotEntitled.Say("only the agent's owner, or who may change things, can withdraw a request")
	}
	if _, err := s.Withdraw(ctx, audit.Person(c.ID, c.Name), r.ID, reason); err != nil {
		return nil, err
	}
	return s.detail(ctx, c, r.ID)
}

func (s *Service) httpComment(ctx context.Context, c rest.Caller, r *commentRequest) (*rest.None, error) {
	return nil, s.Comment(ctx, byOf(c), r.ID, r.Body.Text, r.Body.Ask)
}

func (s *Service) httpKey(context.Context, rest.Caller, *struct{}) (*KeyView, error) {
	return &KeyView{Algorithm: "Ed25519", Key: s.Key()}, nil
}

func (s *Service) httpDelegations(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]DelegationView, error) {
	all, err := s.Delegations(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]DelegationView, len(all))
	for i, d := range all {
		out[i] = delegationView(d)
	}
	return &out, nil
}

func delegationView(d Delegation) DelegationView {
	return DelegationView{ID: d.ID, Giver: d.Giver.Name, Taker: d.Taker.Name, Since: d.Since, Until: d.Until, Reason: d.Reason, By: d.CreatedBy}
}

func (s *Service) httpDelegate(ctx context.Context, c rest.Caller, r *delegateRequest) (*DelegationView, error) {
	if err := signedIn(c); err != nil {
		return nil, err
	}
	giver := r.Body.Giver
	if giver == "" {
		giver = c.Name
	}
	d, err := s.Delegate(ctx, audit.Person(c.ID, c.Name), reasonOf(c, r.Body.Reason), giver, r.Body.Taker, r.Body.Since, r.Body.Until)
	if err != nil {
		return nil, err
	}
	v := delegationView(d)
	return &v, nil
}

func (s *Service) httpEndDelegation(ctx context.Context, c rest.Caller, r *reasonRequest) (*rest.None, error) {
	return nil, s.EndDelegation(ctx, audit.Person(c.ID, c.Name), reasonOf(c, r.Body.Reason), r.ID)
}

func (s *Service) httpNotices(ctx context.Context, c rest.Caller, r *struct {
	All bool `query:"all" doc:"those you have seen, too"`
}) (*[]NoticeView, error) {
	found, err := s.Notices(ctx, c.ID, r.All)
	if err != nil {
		return nil, err
	}
	out := make([]NoticeView, len(found))
	for i, n := range found {
		out[i] = NoticeView{n.ID, n.Kind, n.Approval, inert.Text(n.By), inert.Text(n.Said), n.Line(), n.Created, n.Seen}
	}
	return &out, nil
}

func (s *Service) httpSee(ctx context.Context, c rest.Caller, r *struct {
	ID string `path:"id" maxLength:"64"`
}) (*rest.None, error) {
	return nil, s.See(ctx, Person{c.ID, c.Name}, r.ID)
}

func (s *Service) httpStats(ctx context.Context, _ rest.Caller, r *struct {
	Days int `query:"days" minimum:"0" maximum:"3650" doc:"of how many days; 30 if empty"`
}) (*Stats, error) {
	days := r.Days
	if days == 0 {
		days = 30
	}
	out, err := s.Stats(ctx, s.o.Now().AddDate(0, 0, -days))
	return &out, err
}
