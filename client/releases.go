package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Release is an agent as it was at one moment. It does not change.
type Release struct {
	ID       string          `json:"id"`
	Agent    string          `json:"agent"`
	Number   int64           `json:"number"`
	Digest   string          `json:"digest"`
	Reason   string          `json:"reason"`
	By       string          `json:"by"`
	Created  time.Time       `json:"created"`
	Models   []string        `json:"models"`  // CONNECTION/MODEL; none are pinned if empty
	Prompts  []string        `json:"prompts"` // hex SHA-256; not pinned if empty
	Tools    []ReleaseTool   `json:"tools"`
	Grants   []ReleaseGrant  `json:"grants"`
	Policies []ReleasePolicy `json:"policies"`
	Tests    []Case          `json:"tests"`
}

// ReleaseTool is a pinned tool.
type ReleaseTool struct {
	Connection string `json:"connection"`
	Name       string `json:"name"`
	Digest     string `json:"digest,omitempty"`
	Effect     string `json:"effect"`
}

// ReleaseGrant is a grant that a release keeps.
type ReleaseGrant struct {
	Name       string    `json:"name"`
	Connection string    `json:"connection"`
	Tools      []string  `json:"tools"`
	When       string    `json:"when,omitempty"`
	Expires    time.Time `json:"expires,omitzero"`
}

// ReleasePolicy is a policy file that a release keeps. Own says that it is about
// the agent alone, so that a rollback restores it.
type ReleasePolicy struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	Text   string `json:"text"`
	Own    bool   `json:"own"`
}

// ReleaseSpec is what is said of a new release; the rest is the agent's live state.
type ReleaseSpec struct {
	Models  []string `json:"models,omitempty"`
	Prompts []string `json:"prompts,omitempty"`
	Tests   []Case   `json:"tests,omitempty"`
}

// ReleaseSignals are by what a canary is judged, in percent of its calls.
type ReleaseSignals struct {
	Refusals int64  `json:"refusals,omitzero"`
	Errors   int64  `json:"errors,omitzero"`
	Finding  string `json:"finding,omitempty"`
	Least    int64  `json:"least,omitzero"`
}

// ReleaseMove is something that was done with an agent's releases: promoted,
// canary or rolled_back.
type ReleaseMove struct {
	ID       string    `json:"id"`
	Agent    string    `json:"agent"`
	Kind     string    `json:"kind"`
	Stage    string    `json:"stage"`
	Number   int64     `json:"number"`
	Previous int64     `json:"previous"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
	At       time.Time `json:"at"`
}

// ReleaseState is which release of an agent is in force; 0 is none.
type ReleaseState struct {
	Agent   string          `json:"agent"`
	Stage   string          `json:"stage"`
	Active  int64           `json:"active"`
	Canary  int64           `json:"canary,omitzero"`
	Percent int64           `json:"percent,omitzero"`
	Signals *ReleaseSignals `json:"signals,omitempty"`
	Since   time.Time       `json:"since"`
	Binds   int64           `json:"binds,omitzero"` // the release that binds the run that was asked for
	Moves   []ReleaseMove   `json:"moves"`
}

// ReleaseRestored is what a rollback changed beside the pins.
type ReleaseRestored struct {
	Given    []string `json:"given"`
	Revoked  []string `json:"revoked"`
	Policies []string `json:"policies"`
	Shared   []string `json:"shared"` // differ, and stay: they are about other agents too
	Kept     []string `json:"kept"`   // came later, and stay: they forbid something
	Removed  []string `json:"removed"`
	Withheld []string `json:"withheld"` // grants that a review revoked since, or that need an end or an exception by now
	ByHand   []string `json:"by_hand"`  // grants that a person revoked or narrowed since, and that stay so
}

// ReleaseMoved is a move and what it changed.
type ReleaseMoved struct {
	ReleaseMove
	Restored ReleaseRestored `json:"restored"`
}

// ReleaseDiff is what differs between two releases.
type ReleaseDiff struct {
	Agent   string          `json:"agent"`
	From    int64           `json:"from"`
	To      int64           `json:"to"` // -1: the agent as it is now
	Changes []ReleaseChange `json:"changes"`
}

// ReleaseChange is one thing that differs: added, removed or changed.
type ReleaseChange struct {
	ID   string `json:"id"`
	What string `json:"what"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// ReleaseAsk is what a promotion is asked for with.
type ReleaseAsk struct {
	Number  int64           `json:"number,omitzero"`
	Stage   string          `json:"stage,omitempty"`
	Percent int64           `json:"percent,omitzero"`
	Signals *ReleaseSignals `json:"signals,omitempty"`
	Accept  []string        `json:"accept,omitempty"`
}

// ReleaseRequest is a promotion that somebody asked for: open, approved, denied,
// expired, or done if nobody was needed.
type ReleaseRequest struct {
	ID        string          `json:"id"`
	Agent     string          `json:"agent"`
	Number    int64           `json:"number"`
	Digest    string          `json:"digest"`
	Stage     string          `json:"stage"`
	Percent   int64           `json:"percent,omitzero"`
	Signals   *ReleaseSignals `json:"signals,omitempty"`
	Accepted  []string        `json:"accepted"`
	State     string          `json:"state"`
	Reason    string          `json:"reason"`
	By        string          `json:"by"`
	Asked     time.Time       `json:"asked"`
	Expires   time.Time       `json:"expires,omitzero"`
	DecidedBy string          `json:"decided_by,omitempty"`
	Decided   time.Time       `json:"decided,omitzero"`
	Answer    string          `json:"answer,omitempty"`
}

// ReleaseReport is what the readiness gate found.
type ReleaseReport struct {
	Agent  string        `json:"agent"`
	Number int64         `json:"number"`
	Stage  string        `json:"stage"`
	Ready  bool          `json:"ready"`
	Items  []ReleaseItem `json:"items"`
}

// ReleaseItem is one thing that must be so before a release goes above development.
type ReleaseItem struct {
	ID       string `json:"id"`
	OK       bool   `json:"ok"`
	Accepted bool   `json:"accepted,omitzero"`
	May      bool   `json:"may_accept,omitzero"`
	What     string `json:"what"`
	Mend     string `json:"mend,omitempty"`
}

// CheckRelease shows whether a release passes the readiness gate: the newest if
// number is 0, for the agent's stage if stage is empty.
func (c *Client) CheckRelease(ctx context.Context, agent string, number int64, stage string, accept []string) (ReleaseReport, error) {
	return get[ReleaseReport](ctx, c, v1+"/agents"+segment(agent)+"/release/check", url.Values{"number": {strconv.FormatInt(number, 10)}, "stage": {stage}, "accept": {strings.Join(accept, ",")}})
}

// Releases lists releases, of one agent if it is named, the newest first.
func (c *Client) Releases(ctx context.Context, agent string) ([]Release, error) {
	return get[[]Release](ctx, c, v1+"/releases", url.Values{"agent": {agent}})
}

// Release returns a release; of number 0 the newest.
func (c *Client) Release(ctx context.Context, agent string, number int64) (Release, error) {
	return get[Release](ctx, c, v1+"/agents"+segment(agent)+"/releases/"+strconv.FormatInt(number, 10), nil)
}

// CreateRelease makes a release of what an agent is now.
func (c *Client) CreateRelease(ctx context.Context, agent string, spec ReleaseSpec) (Release, error) {
	return send[Release](ctx, c, http.MethodPost, v1+"/agents"+segment(agent)+"/releases", spec)
}

// ReleaseState returns which release of an agent is in force, and what was done.
func (c *Client) ReleaseState(ctx context.Context, agent string) (ReleaseState, error) {
	return get[ReleaseState](ctx, c, v1+"/agents"+segment(agent)+"/release", nil)
}

// RunRelease is ReleaseState with the release that binds a run of the agent.
func (c *Client) RunRelease(ctx context.Context, agent, run string) (ReleaseState, error) {
	return get[ReleaseState](ctx, c, v1+"/agents"+segment(agent)+"/release", url.Values{"run": {run}})
}

// DiffReleases compares two releases: from 0 is the one in force, to 0 the newest,
// -1 the agent as it is now.
func (c *Client) DiffReleases(ctx context.Context, agent string, from, to int64) (ReleaseDiff, error) {
	return get[ReleaseDiff](ctx, c, v1+"/agents"+segment(agent)+"/release/diff", url.Values{"from": {strconv.FormatInt(from, 10)}, "to": {strconv.FormatInt(to, 10)}})
}

// PromoteRelease asks for a release to be put in force.
func (c *Client) PromoteRelease(ctx context.Context, agent string, ask ReleaseAsk) (ReleaseRequest, error) {
	return send[ReleaseRequest](ctx, c, http.MethodPost, v1+"/agents"+segment(agent)+"/release/promote", ask)
}

// RollBackRelease returns to the release before, or to one that was in force.
func (c *Client) RollBackRelease(ctx context.Context, agent string, to int64) (ReleaseMoved, error) {
	return send[ReleaseMoved](ctx, c, http.MethodPost, v1+"/agents"+segment(agent)+"/release/rollback", struct {
		To int64 `json:"to,omitzero"`
	}{to})
}

// ReleaseRequests lists promotions that wait for another person, or all.
func (c *Client) ReleaseRequests(ctx context.Context, all bool) ([]ReleaseRequest, error) {
	return get[[]ReleaseRequest](ctx, c, v1+"/release-requests", url.Values{"all": {strconv.FormatBool(all)}})
}

// DecideRelease approves or denies a promotion that somebody asked for.
func (c *Client) DecideRelease(ctx context.Context, request string, approve bool) (ReleaseRequest, error) {
	verb := "/deny"
	if approve {
		verb = "/approve"
	}
	return send[ReleaseRequest](ctx, c, http.MethodPost, v1+"/release-requests"+segment(request)+verb, struct{}{})
}
