package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/connections"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/gateway"
)

var (
	errGit     = fault.New(fault.Invalid, "bad_git_request", "the request is not what git sends")
	errGitPath = fault.New(fault.NotFound, "unknown_operation", "a git connection serves REPOSITORY/info/refs, REPOSITORY/git-upload-pack and REPOSITORY/git-receive-pack of the smart protocol, nothing else")
)

// The services of the smart protocol (gitprotocol-http).
const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// The kinds of updates of a push.
const (
	kindCreate  = "create"
	kindUpdate  = "update" // forward: the new commit was shown to descend from the old one
	kindDelete  = "delete"
	kindRewrite = "rewrite" // not shown to be forward: a force push, or one of commits that the server has already
)

// gitRequest is a request of git's smart protocol.
type gitRequest struct {
	service    string
	list       bool // of refs: info/refs
	repository string
	updates    []update
	report     bool // the client wants to hear of each ref
	sideband   bool
}

type update struct{ kind, ref, old, now string }

// matchGit finds out what git wants. Which tool a push is follows from its body,
// so that is read first; whoever asks is known.
func (x *exchange) matchGit(call *gateway.Call) (func(context.Context, *gateway.Call) error, error) {
	g, err := x.gitRequest()
	if err != nil {
		return nil, err
	}
	x.git = g
	tool, ok := x.f.o.Registry.Tool(x.conn.Name, connections.GitFetch)
	if !ok {
		return nil, errGitPath
	}
	call.Tool = tool
	return func(_ context.Context, call *gateway.Call) error {
		if err := x.readGit(call); err != nil {
			return err
		}
		if x.git.step() == "push" {
			name := connections.GitPush
			if slices.ContainsFunc(g.updates, func(u update) bool { return u.kind == kindDelete || u.kind == kindRewrite }) {
				name = connections.GitRewrite
			}
			call.Tool, _ = x.f.o.Registry.Tool(x.conn.Name, name)
		}
		return nil
	}, nil
}

// step says what the request is a part of. A push begins like a fetch, with the
// list of refs, and of a large one git first sends an empty request.
func (g *gitRequest) step() string {
	switch {
	case g.list || g.service == receivePack && len(g.updates) == 0:
		return "list"
	case g.service == receivePack:
		return "push"
	}
	return "fetch"
}

// gitRequest reads the path, the method and the query.
func (x *exchange) gitRequest() (*gitRequest, error) {
	g := &gitRequest{}
	for _, s := range []string{uploadPack, receivePack} {
		if repo, ok := strings.CutSuffix(x.path, "/"+s); ok {
			g.service, g.repository = s, repo
		}
	}
	if repo, ok := strings.CutSuffix(x.path, "/info/refs"); ok {
		q, err := url.ParseQuery(x.r.URL.RawQuery)
		service := q.Get("service")
		if err != nil || len(q) != 1 || len(q["service"]) != 1 || service != uploadPack && service != receivePack || x.r.URL.RawQuery != "service="+service {
			return nil, errGitPath
		}
		g.service, g.repository, g.list = service, repo, true
	} else if x.r.URL.RawQuery != "" {
		return nil, errGitPath
	}
	want := http.MethodPost
	if g.list {
		want = http.MethodGet
	}
	switch {
	case g.service == "" || !plainRepository(g.repository):
		return nil, errGitPath
	case x.r.Method != want:
		x.allow = []string{want}
		return nil, errMethod
	}
	g.repository = strings.TrimSuffix(strings.TrimPrefix(g.repository, "/"), ".git")
	return g, nil
}

// plainRepository reports whether a path can be read in one way only.
func plainRepository(path string) bool {
	if gateway.CheckPath(path) != nil || len(path) < 2 || path[len(path)-1] == '/' {
		return false
	}
	return !strings.ContainsFunc(path, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._~-+", c))
	})
}

// readGit reads what policy needs of the body and makes it the call's.
func (x *exchange) readGit(call *gateway.Call) error {
	g := x.git
	var args object
	args.text("repository", g.repository)
	if g.list {
		if x.r.ContentLength != 0 {
			return errNoBody
		}
		args.text("step", "list")
	} else {
		media, _, err := x.media()
		if err != nil || media != "application/x-"+g.service+"-request" {
			return errType.Say("git sends application/x-%s-request", g.service)
		}
		head, more, err := x.head()
		if err != nil {
			return err
		}
		if g.service == receivePack {
			err = x.push(call, &args, head, more)
		} else {
			err = x.fetch(call, &args, head, more)
		}
		if err != nil {
			return err
		}
	}
	call.Args = args.end()
	x.bind(call)
	if g.step() == "push" {
		// The names of the commits say what is in the pack, which git may write in
		// other bytes the next time.
		call.Bound = g.bound()
	}
	return nil
}

// fetch reads what is wanted. Everything is, so it must fit the limit.
func (x *exchange) fetch(call *gateway.Call, args *object, head []byte, more bool) error {
	if more {
		return tooLarge(x.f.o.MaxBody)
	}
	call.Request.Body = head
	plain, err := x.inflated(head)
	if err != nil {
		return err
	}
	w, err := readWants(plain)
	if err != nil {
		return errGit.Say("the body is not what git sends to %s", uploadPack)
	}
	args.text("step", w.step)
	args.raw("prefixes", texts(w.prefixes))
	args.raw("refs", texts(w.refs))
	return nil
}

// inflated undoes gzip, by which git makes large requests smaller. What it
// inflates to must fit the same limit.
func (x *exchange) inflated(b []byte) ([]byte, error) {
	if !encoded(x.r.Header) {
		return b, nil
	}
	if e := x.r.Header["Content-Encoding"]; len(e) != 1 || !strings.EqualFold(strings.TrimSpace(e[0]), "gzip") && !strings.EqualFold(strings.TrimSpace(e[0]), "x-gzip") {
		return nil, errEncoding
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, errGit.Say("the body is not gzip")
	}
	out, err := io.ReadAll(io.LimitReader(z, x.f.o.MaxBody+1))
	switch {
	case err != nil:
		return nil, errGit.Say("the body is not gzip")
	case int64(len(out)) > x.f.o.MaxBody:
		return nil, tooLarge(x.f.o.MaxBody)
	}
	return out, nil
}

// push reads what becomes of each ref, and of the pack what shows whether it
// moves forward. The rest of the pack is streamed.
func (x *exchange) push(call *gateway.Call, args *object, head []byte, more bool) error {
	if encoded(x.r.Header) {
		return errEncoding
	}
	g := x.git
	options, err := g.readUpdates(head)
	if err != nil {
		return errGit.Say("%s", err.Error())
	}
	args.text("step", g.step())
	if g.step() == "list" {
		if more {
			return errGit
		}
		call.Request.Body = head
		args.raw("prefixes", texts(nil))
		args.raw("refs", texts(nil))
		return nil
	}
	var refs, kinds, both []string
	for _, u := range g.updates {
		refs, kinds, both = append(refs, u.ref), append(kinds, u.kind), append(both, u.kind+" "+u.ref)
	}
	if len(g.updates) == 1 {
		args.text("ref", refs[0])
		args.text("kind", kinds[0])
	}
	slices.Sort(kinds)
	args.raw("refs", texts(refs))
	args.raw("kinds", texts(slices.Compact(kinds)))
	args.raw("updates", texts(both))
	args.raw("options", texts(options))
	if !more {
		call.Request.Body = head
		return nil
	}
	x.stream(call, head, x.arriving())
	call.Unbound = ""
	return nil
}

func (g *gitRequest) bound() []byte {
	h := sha256.New()
	for _, u := range g.updates {
		fmt.Fprintf(h, "%s %s %s %s\n", g.repository, u.old, u.now, u.ref) // a hash takes everything
	}
	return []byte(hex.EncodeToString(h.Sum(nil)))
}

func texts(list []string) []byte {
	out := []byte("[")
	for i, s := range list {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, quote(s)...)
	}
	return append(out, ']')
}
