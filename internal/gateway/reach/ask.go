package reach

import (
	"context"
	"encoding/json/v2"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
)

// Why is the reason in the log of what is asked.
const Why = "reach of the connector's own identity"

// CallName is the tool of the calls by which upstreams are asked.
const CallName = "reach"

// Fault turns a refusal of the line into a fault, which other rooms know.
func Fault(err error) error {
	r, ok := errors.AsType[*gateway.Refusal](err)
	if !ok {
		return err
	}
	f := *ErrAsk
	f.Kind, f.Code, f.Message = r.Kind, r.Code, r.Reason
	return f.With(r)
}

// CallOf is the call by which an upstream is asked.
func CallOf(c connections.Connection, up *gateway.Upstream) *gateway.Call {
	t := connections.Tool{Connection: c.Name, Name: CallName, Effect: connections.Read, Status: connections.StatusPinned, Builtin: true}
	return &gateway.Call{Connection: c, Tool: t, Request: up}
}

// got is an upstream's answer.
type got struct {
	status int
	header http.Header
	body   []byte
}

// get asks for one thing, by a request that changes nothing.
func (s *Service) get(ctx context.Context, by audit.Actor, c connections.Connection, path, query string, header http.Header) (got, error) {
	h := http.Header{"Accept": {"application/json"}}
	for k, v := range header {
		h[k] = v
	}
	a, err := s.o.Line.Reach(ctx, by, Why, CallOf(c, &gateway.Upstream{Method: http.MethodGet, Path: path, Query: query, Header: h, Redirects: true}))
	if err != nil {
		return got{}, Fault(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, MaxAnswer+1))
	switch {
	case ctx.Err() != nil:
		return got{}, gateway.ErrTimeout.With(ctx.Err())
	case err != nil:
		return got{}, Fault(gateway.Refuse(gateway.ErrBroken.With(err)))
	case len(b) > MaxAnswer:
		return got{}, ErrAsk.Say("the upstream's answer is over %d bytes; nothing of it is shown", MaxAnswer)
	}
	return got{a.Status, a.Header, b}, nil
}

// refused reports whether the upstream took exception at the credential: for
// this, of all that might have been asked.
func refused(err error) bool {
	f, ok := errors.AsType[*fault.Error](err)
	return ok && f.Code == gateway.ErrRejected.Code
}

// models asks a model provider for its models.
func (s *Service) models(ctx context.Context, by audit.Actor, c connections.Connection, t *Told) error {
	query, header := "", http.Header{}
	if c.Dialect == connections.Anthropic {
		query, header = "limit=1000", http.Header{"Anthropic-Version": {"2023-06-01"}}
	}
	a, err := s.get(ctx, by, c, "/v1/models", query, header)
	if err != nil {
		return err
	}
	scopes(t, a.header)
	t.Unknowable("which models agents used is not counted here: countersign log search has each call with its model")
	if a.status != http.StatusOK {
		t.Unknowable(told("the models", a.status))
		return nil
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
		More bool `json:"has_more"`
	}
	if err := json.Unmarshal(a.body, &list); err != nil {
		return ErrAsk.Say("the provider's list of models cannot be read").With(err)
	}
	for _, m := range list.Data {
		if m.ID != "" {
			t.Add(Thing{Kind: Model, Name: m.ID, Open: true})
		}
	}
	t.More = t.More || list.More
	t.Unknowable("files, fine-tuning and administration that the key may also do: no request that changes nothing tells it")
	return nil
}

func told(what string, status int) string {
	return "the upstream does not tell " + what + " (it answered " + http.StatusText(status) + ")"
}

// api asks an HTTP API for the scopes of the credential.
func (s *Service) api(ctx context.Context, by audit.Actor, c connections.Connection, t *Told) error {
	a, err := s.get(ctx, by, c, "", "", nil)
	if err != nil {
		return err
	}
	if scopes(t, a.header) == 0 && len(t.Rights) == 0 {
		t.Unknowable("what else the credential may do in this API: neither the API nor the credential says which scopes it has")
	}
	return nil
}

// scopes reads the scopes of a token from the header in which GitHub and those
// that follow it say them (https://docs.github.com/en/rest, "X-OAuth-Scopes").
func scopes(t *Told, h http.Header) (n int) {
	for _, line := range h.Values("X-OAuth-Scopes") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" {
				t.Right(Right{Name: name, From: Upstream, Write: changes(name)})
				n++
			}
		}
	}
	return n
}

// hubScopes are scopes of GitHub that let somebody change something and do not
// say so in their name (https://docs.github.com/en/apps/oauth-apps/building-oauth-apps/scopes-for-oauth-apps).
var hubScopes = []string{"repo", "public_repo", "repo:status", "repo_deployment", "repo:invite", "security_events", "workflow", "gist", "notifications", "user", "user:follow", "project", "codespace", "delete_repo", "delete:packages"}

// changes reports whether a scope says that something can be changed with it. One
// that says nothing is not marked.
func changes(scope string) bool {
	scope = strings.ToLower(scope)
	if slices.Contains(hubScopes, scope) {
		return true
	}
	for word := range strings.FieldsFuncSeq(scope, func(r rune) bool { return strings.ContainsRune(":._-/", r) }) {
		if slices.Contains([]string{"write", "admin", "delete", "manage", "create", "update", "readwrite", "rw", "all", "full", "*"}, word) {
			return true
		}
	}
	return false
}

// forges are where forges tell, beneath the address of their repositories, which
// ones a credential can reach.
var forges = []struct{ path, query, size string }{
	{"/api/v1/user/repos", "limit=50", "Gitea and Forgejo"},
	{"/api/v3/user/repos", "per_page=100", "GitHub Enterprise Server"},
}

// mostPages is how many pages of a forge's list are read.
const mostPages = 20

// forge asks a server of git repositories which of them the credential can reach.
func (s *Service) forge(ctx context.Context, by audit.Actor, c connections.Connection, t *Told) error {
	for _, f := range forges {
		ok, err := s.repositories(ctx, by, c, f.path, f.query, t)
		if err != nil && !refused(err) {
			return err
		}
		if ok {
			return nil
		}
	}
	t.Unknowable("which repositories the credential can reach: the server tells it in none of the ways that are known here (those of Gitea, Forgejo and GitHub Enterprise Server, at the connection's own host)")
	return nil
}

func (s *Service) repositories(ctx context.Context, by audit.Actor, c connections.Connection, path, query string, t *Told) (bool, error) {
	for page := 1; page <= mostPages; page++ {
		a, err := s.get(ctx, by, c, path, query+"&page="+strconv.Itoa(page), nil)
		if err != nil {
			return false, err
		}
		var list []struct {
			Name   string          `json:"full_name"`
			Rights map[string]bool `json:"permissions"`
		}
		if a.status != http.StatusOK || json.Unmarshal(a.body, &list) != nil {
			return page > 1, nil
		}
		if page == 1 {
			scopes(t, a.header)
		}
		for _, r := range list {
			x := Thing{Kind: Repository, Name: r.Name, Open: true}
			for right, has := range r.Rights {
				if has {
					x.Rights = append(x.Rights, right)
					x.Write = x.Write || right != "pull" && right != "triage"
				}
			}
			slices.Sort(x.Rights)
			t.Add(x)
		}
		if len(list) == 0 || t.More {
			return true, nil
		}
	}
	t.More = true
	return true, nil
}
