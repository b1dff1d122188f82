package cli

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/client"
)

// exampleRules are the rules by which the example's detection acts; the others
// only observe.
var exampleRules = []string{"probe.impossible", "model.fan-out", "key.resold"}

const (
	// mostTries is more calls than a run of the thief's victim may make.
	mostTries = 150
	// byModel is the front that the thief knocks at.
	byModel = "/llm/openai/v1"
)

// wanted are the models that a thief hopes for.
var wanted = []string{"gpt-5-mini", "gpt-5", "gpt-5-pro", "gpt-5-nano", "gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "o1", "o1-pro", "o3", "o3-pro", "o4-mini", "chatgpt-4o-latest"}

// thief holds a key of an agent, and nothing else.
type thief struct {
	key     client.IssuedKey
	base    string
	through int
	shut    string // how the last refusal of all words it; empty: nothing stopped the key
}

// resell uses a stolen key as such keys are used: which models are there, does
// each of them answer, and then those that do, until something stops the key.
func resell(ctx context.Context, r *raid, as assault) (at attempt, err error) {
	key, err := r.c.IssueKey(ctx, as.agents[0], "1h")
	if err != nil {
		return at, err
	}
	defer func() {
		if e := r.c.RevokeKey(context.WithoutCancel(ctx), as.agents[0], key.ID); err == nil {
			err = e
		}
	}()
	t := &thief{key: key, base: r.c.URL() + byModel}
	if _, err := t.ask(ctx, http.MethodGet, "/models", nil); err != nil {
		return at, err
	}
	models := wanted
	for i := 0; i < mostTries && t.shut == "" && len(models) > 0; {
		var answer []string
		for _, m := range models {
			good, err := t.ask(ctx, http.MethodPost, "/chat/completions", map[string]any{"model": m, "max_completion_tokens": 64,
				"messages": []map[string]string{{"role": "user", "content": "What model are you?"}}})
			if err != nil {
				return at, err
			}
			if i++; good {
				answer = append(answer, m)
			}
			if t.shut != "" {
				break
			}
		}
		models = answer
	}
	return r.caught(ctx, t)
}

// ask makes one request. A refusal that is about more than this request ends the
// thief's attempts.
func (t *thief) ask(ctx context.Context, method, path string, body any) (good bool, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, method, t.base+path, bytes.NewReader(text))
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", "Bearer "+t.key.Value)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, fmt.Errorf("the door %s: %w", path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return false, err
	}
	switch said := string(answer); {
	case resp.StatusCode < 300:
		t.through++
		return true, nil
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusUnauthorized, strings.Contains(said, "stops this call"):
		t.shut = said
	}
	return false, nil
}

// caught says what stopped the key: what detection did about it, or else a limit.
func (r *raid) caught(ctx context.Context, t *thief) (attempt, error) {
	var found client.Detection
	err := await(ctx, "detection to have seen all of it", func() (bool, error) {
		all, err := r.c.Detections(ctx, true, "", 100)
		if err != nil {
			return false, err
		}
		found = client.Detection{}
		for _, d := range all {
			if d.Credential == t.key.ID && d.State == "active" && (found.ID == "" || d.Happened.Before(found.Happened)) {
				found = d
			}
		}
		if found.ID != "" {
			return found.Contained > 0, nil
		}
		status, err := r.c.DetectionStatus(ctx, "")
		return status.Behind == 0, err
	})
	if err != nil {
		return attempt{}, err
	}
	if found.ID != "" {
		return r.cut(ctx, t, found)
	}
	if t.shut == "" {
		return attempt{through: true}, nil
	}
	return r.limited(ctx, t)
}

// cut gathers what the log says of a detection that cut a key.
func (r *raid) cut(ctx context.Context, t *thief, d client.Detection) (attempt, error) {
	out := &response{Before: t.through, Micros: int64(d.Contained * 1000),
		Says: fmt.Sprintf("%s with the key got an answer; then %s, and the key was locked (%s)", counted(t.through, "request", "requests"), d.Seen, d.ID)}
	for _, kind := range []string{"detection.acted", "detection.contained"} {
		ev, err := r.event(ctx, "type:"+kind+" object:"+d.Object, d.Happened)
		if err != nil {
			return attempt{}, err
		}
		out.Events = append(out.Events, witness{ev.ID, ev.Type})
	}
	return attempt{refused: &layer{byDetection, d.Rule, responses[d.Response]}, event: d.Event, response: out}, nil
}

// responses say what detection did, in one word.
var responses = map[string]string{"lock-credential": "locked", "lock-agent": "locked", "throttle": "throttled", "hold": "held", "rotate": "rotated"}

// limited finds the budget that a thief used up.
func (r *raid) limited(ctx context.Context, t *thief) (attempt, error) {
	budgets, err := r.c.Budgets(ctx)
	if err != nil {
		return attempt{}, err
	}
	at := slices.IndexFunc(budgets, func(b client.Budget) bool { return strings.Contains(t.shut, b.Name) })
	if at < 0 {
		return attempt{refused: &layer{byOther, inert(t.shut, 60), "refused"}}, nil
	}
	ev, err := r.event(ctx, "type:call.denied credential:"+t.key.ID, t.key.Created)
	if err != nil {
		return attempt{}, err
	}
	return attempt{refused: &layer{byBudget, budgets[at].Name, "refused"}, event: ev.ID, run: ev.Run,
		response: &response{Before: t.through, Says: counted(t.through, "request", "requests") + " with the key got an answer", Events: []witness{{ev.ID, ev.Type}}}}, nil
}

// dropBudget takes a budget away.
func (r *raid) dropBudget(ctx context.Context, name string) error {
	b, err := r.c.Budget(ctx, name)
	if err != nil {
		return err
	}
	r.undo = append(r.undo, func(ctx context.Context) error { _, err := r.c.PutBudget(ctx, name, b.BudgetSpec); return err })
	return r.c.DeleteBudget(ctx, name)
}

// silence takes a rule of detection away.
func (r *raid) silence(ctx context.Context, rule string) error {
	r.undo = append(r.undo, func(ctx context.Context) error { _, err := r.c.SetDetectionMode(ctx, rule, "enforce"); return err })
	_, err := r.c.SetDetectionMode(ctx, rule, "off")
	return err
}
