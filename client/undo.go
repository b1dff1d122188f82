package client

import (
	"context"
	"encoding/json/jsontext"
	"net/http"
	"time"
)

// UndoWhat says what to undo: a call or a run. As is the agent in whose name; the
// one that made the call if it is empty.
type UndoWhat struct {
	Call string `json:"call,omitempty"`
	Run  string `json:"run,omitempty"`
	As   string `json:"as,omitempty"`
}

// UndoStep is how one call is undone.
type UndoStep struct {
	ID       string         `json:"id"`
	N        int            `json:"n"`
	Call     string         `json:"call"`
	At       time.Time      `json:"at,omitzero"`
	Tool     string         `json:"tool"`
	Agent    string         `json:"agent"`
	ByTool   string         `json:"by_tool,omitempty"`
	Args     jsontext.Value `json:"args,omitempty"`
	State    string         `json:"state"` // planned, making, held, done, failed, unknown, cannot
	Made     string         `json:"made,omitempty"`
	Attempts int            `json:"attempts,omitempty"`
	Approval string         `json:"approval,omitempty"`
	Why      string         `json:"why,omitempty"`
	SendAt   time.Time      `json:"send_at,omitzero"` // the call was not sent yet, and is cancelled
}

// UndoPlan is what would be done, in this order.
type UndoPlan struct {
	Object string     `json:"object"`
	Digest string     `json:"digest"`
	Steps  []UndoStep `json:"steps"`
}

// Undo is a plan that is carried out.
type Undo struct {
	ID      string     `json:"id"`
	Object  string     `json:"object"`
	State   string     `json:"state"` // running, done, attention
	By      string     `json:"by"`
	Reason  string     `json:"reason"`
	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
	Steps   []UndoStep `json:"steps,omitempty"`
}

// PlanUndo says how a call or a run would be undone, and changes nothing.
func (c *Client) PlanUndo(ctx context.Context, what UndoWhat) (UndoPlan, error) {
	return send[UndoPlan](ctx, c, http.MethodPost, v1+"/undos/plan", what)
}

// BeginUndo carries out a plan; digest is the plan's.
func (c *Client) BeginUndo(ctx context.Context, what UndoWhat, digest string) (Undo, error) {
	return send[Undo](ctx, c, http.MethodPost, v1+"/undos", struct {
		UndoWhat
		Digest string `json:"digest"`
	}{what, digest})
}

// Undos lists what was undone, the latest first, without steps.
func (c *Client) Undos(ctx context.Context) ([]Undo, error) {
	return get[[]Undo](ctx, c, v1+"/undos", nil)
}

// Undo returns one undo with its steps.
func (c *Client) Undo(ctx context.Context, id string) (Undo, error) {
	return get[Undo](ctx, c, v1+"/undos"+segment(id), nil)
}

// SettleUndo says of steps that failed or are unknown that they were done, or that
// they are to be made again.
func (c *Client) SettleUndo(ctx context.Context, id string, done, again []int) (Undo, error) {
	return send[Undo](ctx, c, http.MethodPost, v1+"/undos"+segment(id)+"/settle", struct {
		Done  []int `json:"done,omitempty"`
		Again []int `json:"again,omitempty"`
	}{done, again})
}
