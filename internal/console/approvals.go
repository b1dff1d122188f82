package console

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/countersign/countersign/client"
)

var approvalPages = []page{
	{"/approvals", "approvals", "Approvals", "approvals", (*Console).showApprovals},
	{"/approvals/{id}", "approval", "Approval", "approvals", (*Console).showApproval},
}

var approvalActions = []action{
	{"/approvals/{id}/decision", "approval", (*Console).decide},
	{"/approvals/{id}/comments", "approval", (*Console).comment},
	{"/approvals/{id}/override", "approval", (*Console).override},
	{"/approvals/{id}/withdraw", "approval", (*Console).withdraw},
	{"/approvals", "approvals", (*Console).decideMany},
}

// pendingAtOnce is how many requests are asked for at a time.
const pendingAtOnce = 1000

// pending returns all requests that wait, the newest first.
func (v *visit) pending() (all []client.Approval, err error) {
	q := client.ApprovalQuery{State: "pending", Limit: pendingAtOnce}
	for {
		page, err := v.API.Approvals(v.ctx(), q)
		if all = append(all, page...); err != nil || len(page) < q.Limit {
			return all, err
		}
		q.Before = page[len(page)-1].ID
	}
}

// count finds out how much waits for the person.
func (v *visit) count() error {
	found, err := v.pending()
	for _, a := range found {
		if a.Mine {
			v.Waiting++
		}
	}
	return err
}

// inbox is a list of requests.
type inbox struct {
	*listing[client.Approval]
	Box    string // mine, groups, all, settled
	Groups []box
	Alike  []client.Approval // more than one of identical shape, to decide at once
	Signed bool              // to approve one of these takes a passkey: they are denied at once, and approved one by one
}

// box is one choice of requests with how many it holds.
type box struct {
	Name, Title string
	Count       int
	Current     bool
}

var approvalColumns = []column[client.Approval]{
	{Key: "asked", Title: "Asked", By: "asked", Value: func(a client.Approval) string { return exact(a.Created) }, Less: func(a, b client.Approval) int { return b.Created.Compare(a.Created) }},
	{Key: "summary", Title: "What", Value: func(a client.Approval) string { return a.Summary }},
	{Key: "agent", Title: "Agent", Value: func(a client.Approval) string { return a.Agent }},
	{Key: "tool", Title: "Tool", Value: func(a client.Approval) string { return a.Connection + "/" + a.Tool }},
	{Key: "state", Title: "State", Value: func(a client.Approval) string { return a.State }},
	{Key: "decide_by", Title: "Until", Value: func(a client.Approval) string { return exact(a.DecideBy) }},
	{Key: "id", Title: "Request", Value: func(a client.Approval) string { return a.ID }},
}

func (c *Console) showApprovals(v *visit) (any, error) {
	chosen := v.Query("box")
	found, err := v.pending()
	if err != nil {
		return nil, err
	}
	var mine []client.Approval
	for _, a := range found {
		if a.Mine {
			mine = append(mine, a)
		}
	}
	if chosen == "" {
		if chosen = "mine"; len(mine) == 0 && !v.May("decide") {
			chosen = "all"
		}
	}
	ofGroups, err := v.ofMyGroups(found)
	if err != nil {
		return nil, err
	}
	d := inbox{Box: chosen, Groups: []box{{"mine", "For me", len(mine), chosen == "mine"}, {"groups", "My groups", len(ofGroups), chosen == "groups"}, {"all", "All that wait", len(found), chosen == "all"}, {"settled", "Decided", -1, chosen == "settled"}}}
	switch chosen {
	case "mine":
		found = mine
	case "groups":
		found = ofGroups
	case "settled":
		d.listing, err = paged(v, v.settled, approvalColumns)
		if err != nil {
			return nil, err
		}
		d.Note = fmt.Sprintf("%d on this page, the newest first.", d.Found)
	}
	if d.listing == nil {
		d.listing = arrange(v, found, func(a client.Approval) string { return a.ID }, approvalColumns)
	}
	d.Alike = alike(mine)
	d.Signed, err = v.signed(d.Alike)
	return d, err
}

// How many requests are looked at for one page of those that are settled.
const (
	settledAtOnce = 200
	settledMost   = 2000
)

// settled returns a page of the requests that wait no more and that the filter
// selects, the newest first.
func (v *visit) settled(_ string, _ bool, cursor string, limit int) (rows []client.Approval, next string, err error) {
	for seen := 0; seen < settledMost; seen += settledAtOnce {
		found, err := v.API.Approvals(v.ctx(), client.ApprovalQuery{Before: cursor, Limit: settledAtOnce})
		if err != nil {
			return nil, "", err
		}
		past := slices.DeleteFunc(slices.Clone(found), func(a client.Approval) bool { return a.State == "pending" })
		for _, a := range filter(past, v.Query("q"), approvalColumns) {
			if rows = append(rows, a); len(rows) == limit {
				return rows, a.ID, nil
			}
		}
		if len(found) < settledAtOnce {
			return rows, "", nil
		}
		cursor = found[len(found)-1].ID
	}
	return rows, cursor, nil
}

// ofMyGroups returns the requests that ask a group of the person's, also those
// that they may not decide themselves or have decided already.
func (v *visit) ofMyGroups(requests []client.Approval) ([]client.Approval, error) {
	mine, err := v.groups()
	if err != nil {
		return nil, err
	}
	var out []client.Approval
	for _, a := range requests {
		if slices.ContainsFunc(a.Groups, func(g string) bool { return slices.Contains(mine, g) }) {
			out = append(out, a)
		}
	}
	return out, nil
}

// alike returns the requests that differ in nothing a person sees: the same
// agent, tool and words. Only those may be decided at once.
func alike(mine []client.Approval) []client.Approval {
	groups := map[string][]client.Approval{}
	var most []client.Approval
	for _, a := range mine {
		k := a.Agent + "\x00" + a.Connection + "\x00" + a.Tool + "\x00" + a.Summary
		groups[k] = append(groups[k], a)
		if len(groups[k]) > len(most) {
			most = groups[k]
		}
	}
	if len(most) < 2 {
		return nil
	}
	return most
}

// signed reports whether to approve requests of identical shape takes a
// passkey, as the first of them tells; should another differ, the API refuses
// it. A passkey signs what it is shown, the digest of one request: one signature
// for many would show none of them.
func (v *visit) signed(requests []client.Approval) (bool, error) {
	if len(requests) == 0 {
		return false, nil
	}
	a, err := v.API.Approval(v.ctx(), requests[0].ID, 0)
	return a.Passkey, err
}

// approvalPage is one request with everything about it.
type approvalPage struct {
	client.ApprovalDetail
	Labels []string // that the run had gathered, but for what it proposed itself
	Alone  bool     // the person may break the glass
	Next   string   // another request that waits for the person
	None   bool     // it takes a passkey, and the person has none
}

func (c *Console) showApproval(v *visit) (any, error) {
	a, err := v.API.Approval(v.ctx(), v.Request.PathValue("id"), 0)
	if err != nil {
		return nil, err
	}
	d := approvalPage{ApprovalDetail: a, Alone: a.State == "pending" && v.Me.Role == "admin"}
	if a.View != nil {
		for _, s := range a.View.Before {
			d.label(s.Labels)
		}
		for _, s := range a.View.Read {
			d.label(s.Labels)
		}
	}
	if a.Passkey && a.State == "pending" && (a.Mine || d.Alone) {
		mine, err := v.API.Passkeys(v.ctx(), "")
		if err != nil {
			return nil, err
		}
		d.None = len(mine) == 0
	}
	waiting, err := v.pending()
	for _, w := range slices.Backward(waiting) { // the oldest first
		if w.Mine && w.ID != a.ID {
			d.Next = w.ID
			break
		}
	}
	return d, err
}

// Strange reports whether the run read what somebody else may have put there.
func (d approvalPage) Strange() bool {
	return slices.Contains(d.Labels, "untrusted") || slices.Contains(d.Labels, "injection")
}

// label adds labels that are not among the page's yet.
func (d *approvalPage) label(labels []string) {
	for _, l := range labels {
		if !strings.HasPrefix(l, "proposal:") && !slices.Contains(d.Labels, l) {
			d.Labels = append(d.Labels, l)
		}
	}
}

func (c *Console) decide(v *visit) (done, error) {
	verdict := v.Form.Get("verdict")
	a, err := v.reason().DecideApproval(v.ctx(), v.Request.PathValue("id"), verdict, v.Form.Get("passkey"))
	if err != nil {
		return done{}, err
	}
	said := decided(a)
	if verdict == "approve" && v.Form.Get("for_run") != "" {
		said = "Approved, and so is the same tool with the same values for the rest of the run."
		if _, err := v.reason().ExtendApproval(v.ctx(), a.ID); err != nil {
			said = "Approved for this one call, not for its run: " + err.Error()
		}
	}
	return done{to: "/approvals/" + a.ID, said: said}, nil
}

// decided says what a decision led to.
func decided(a client.ApprovalDetail) string {
	switch a.State {
	case "pending":
		return "Your decision is recorded. More people have to decide."
	case "denied":
		return "Denied. The agent is told so."
	}
	return "Approved. The call may be made once, exactly as shown, until " + a.ExecuteBy.UTC().Format("15:04:05 UTC") + "."
}

// decideMany decides about requests that differ in nothing a person sees.
func (c *Console) decideMany(v *visit) (done, error) {
	found, err := v.pending()
	if err != nil {
		return done{}, err
	}
	found = slices.DeleteFunc(found, func(a client.Approval) bool { return !a.Mine })
	same, ids := alike(found), v.Form["id"]
	for _, id := range ids {
		if !slices.ContainsFunc(same, func(a client.Approval) bool { return a.ID == id }) {
			return done{}, &client.Error{Status: 409, Detail: "The requests are not the same any more, or some were decided meanwhile. Nothing was decided; look again."}
		}
	}
	takes, err := v.signed(same)
	if err != nil {
		return done{}, err
	}
	if takes && v.Form.Get("verdict") != "deny" {
		return done{}, &client.Error{Status: 422, Detail: "To approve these takes your passkey, which signs each request by itself. Nothing was decided; open them one by one. Denying them at once takes no passkey."}
	}
	api, n := v.reason(), 0
	var problems []string
	for _, id := range ids {
		_, err := api.DecideApproval(v.ctx(), id, v.Form.Get("verdict"), "")
		if e, ok := errors.AsType[*client.Error](err); ok {
			problems = append(problems, e.Error())
			continue
		}
		if err != nil {
			return done{}, err
		}
		n++
	}
	if len(problems) > 0 {
		return done{}, &client.Error{Status: 409, Detail: fmt.Sprintf("%d of %d were decided; the rest was refused: %s", n, len(ids), strings.Join(slices.Compact(problems), "; "))}
	}
	return done{to: "/approvals", said: fmt.Sprintf("%s decided.", plural(n, "request"))}, nil
}

func (c *Console) comment(v *visit) (done, error) {
	id := v.Request.PathValue("id")
	err := v.API.CommentApproval(v.ctx(), id, v.Form.Get("text"), v.Form.Get("ask") != "")
	return done{to: "/approvals/" + id, said: "Your remark is recorded."}, err
}

func (c *Console) override(v *visit) (done, error) {
	a, err := v.reason().BreakGlass(v.ctx(), v.Request.PathValue("id"), v.Form.Get("passkey"))
	return done{to: "/approvals/" + a.ID, said: "Approved in an emergency. A finding asks others to review it."}, err
}

func (c *Console) withdraw(v *visit) (done, error) {
	a, err := v.reason().WithdrawApproval(v.ctx(), v.Request.PathValue("id"))
	return done{to: "/approvals/" + a.ID, said: "Withdrawn. Nobody can decide about it any more."}, err
}
