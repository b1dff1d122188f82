package leaks

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/rest"
)

type reportRequest struct {
	Body struct {
		Source string `json:"source" maxLength:"60" doc:"who found it: gitleaks, github, a person"`
		Items  []struct {
			Value string `json:"value" doc:"the credential, or text that holds some; it is compared and forgotten"`
			Where string `json:"where,omitempty" doc:"file and line, or URL"`
		} `json:"items"`
	}
}

// reportAnswer says what came of a report. Matches are shown only to people
// who may know them anyway: whether a guess was right is nobody else's business.
type reportAnswer struct {
	Received int     `json:"received"`
	Matches  []Match `json:"matches" doc:"for operators and auditors; empty for others, whatever matched"`
}

type githubRequest struct {
	Key       string `header:"Github-Public-Key-Identifier"`
	Signature string `header:"Github-Public-Key-Signature"`
	RawBody   []byte
}

type createCanary struct {
	Name string `path:"name" maxLength:"63"`
	Body struct {
		Kind   string `json:"kind,omitempty" enum:"key,token" doc:"what it looks like: an agent's key (if empty), or a user's token"`
		Where  string `json:"where,omitempty" doc:"where it will be put"`
		Reason string `json:"reason,omitempty"`
	}
}

type createdCanary struct {
	Canary
	Value string `json:"value" doc:"the credential itself, shown this once"`
}

type deleteCanary struct {
	Name   string `path:"name" maxLength:"63"`
	Reason string `query:"reason"`
}

func person(c rest.Caller) audit.Actor { return audit.Person(c.ID, c.Name) }

func reasonOf(c rest.Caller, body string) string {
	if body != "" {
		return body
	}
	return c.Reason
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	const leaks, canaries, tag = "/api/v1/leaks", "/api/v1/canaries", "leaks"
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: leaks, Summary: "Report credentials that were found in the open", Tag: tag, Need: rest.Report}, s.httpReport)
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: leaks + "/github", Summary: "Take GitHub's secret scanning alerts, signed by GitHub", Tag: tag, Need: rest.Public}, s.httpGitHub)
	rest.Handle(api, rest.Op{Method: http.MethodGet, Path: canaries, Summary: "List canary credentials", Tag: tag, Need: rest.Inspect},
		func(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Canary, error) {
			found, err := s.Canaries(ctx)
			return &found, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodPost, Path: canaries + "/{name}", Summary: "Make a canary: a credential whose use is an incident", Tag: tag, Need: rest.Write, Status: http.StatusCreated},
		func(ctx context.Context, c rest.Caller, r *createCanary) (*createdCanary, error) {
			made, value, err := s.CreateCanary(ctx, person(c), reasonOf(c, r.Body.Reason), r.Name, r.Body.Kind, r.Body.Where)
			return &createdCanary{made, value}, err
		})
	rest.Handle(api, rest.Op{Method: http.MethodDelete, Path: canaries + "/{name}", Summary: "Forget a canary", Tag: tag, Need: rest.Write},
		func(ctx context.Context, c rest.Caller, r *deleteCanary) (*rest.None, error) {
			return nil, s.DeleteCanary(ctx, person(c), reasonOf(c, r.Reason), r.Name)
		})
}

func (s *Service) httpReport(ctx context.Context, c rest.Caller, r *reportRequest) (*reportAnswer, error) {
	items := make([]Item, 0, len(r.Body.Items))
	for _, it := range r.Body.Items {
		items = append(items, Item(it))
	}
	began := time.Now()
	matches, err := s.Report(ctx, person(c), r.Body.Source, items)
	if !c.May(rest.Inspect) {
		// Nor does the time it took tell.
		select {
		case <-time.After(slowest - time.Since(began)):
		case <-ctx.Done():
		}
		if err != nil && matches != nil { // an error after a match would tell that there was one
			s.o.Logger.Error("a leak was reported, but not all of the answer worked", "error", err)
			err = nil
		}
		matches = nil
	}
	if matches == nil {
		matches = []Match{}
	}
	return &reportAnswer{Received: len(items), Matches: matches}, err
}

// slowest is how long an answer takes that must not tell whether anything
// matched: longer than acting on a match does.
const slowest = time.Second

// github is who reports what GitHub has signed.
var github = audit.Actor{Kind: audit.KindSystem, Name: "github"}

func (s *Service) httpGitHub(ctx context.Context, _ rest.Caller, r *githubRequest) (*rest.None, error) {
	if s.o.GitHubKeys == "" {
		return nil, ErrOff
	}
	if err := s.keys.verify(ctx, s.o.GitHubKeys, r.Key, r.Signature, r.RawBody); err != nil {
		return nil, err
	}
	items, err := alerts(r.RawBody)
	if err != nil {
		return nil, err
	}
	_, err = s.Report(ctx, github, "github", items)
	return nil, err
}

// alerts reads the body of GitHub's secret scanning alerts.
func alerts(body []byte) ([]Item, error) {
	var list []struct {
		Token  string `json:"token"`
		Type   string `json:"type"`
		URL    string `json:"url"`
		Source string `json:"source"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, ErrInvalid.Say("the alert is not the JSON that GitHub documents")
	}
	var items []Item
	for _, a := range list {
		if a.Token != "" {
			items = append(items, Item{Value: a.Token, Where: a.Source + " " + a.URL})
		}
	}
	return items, nil
}

// fetchKeys reads GitHub's public keys.
func fetchKeys(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}
