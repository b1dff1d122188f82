package egress

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/gateway"
)

const maxUpdates = 5000

// wants is what a fetch asks for.
type wants struct {
	step     string // list, fetch or info
	prefixes []string
	refs     []string
}

// readWants reads the body of a request to upload-pack: protocol v2 begins with
// a command, before it there are only wants (gitprotocol-v2, gitprotocol-pack).
func readWants(b []byte) (wants, error) {
	w := wants{step: "fetch"}
	for first := true; len(b) > 0; first = false {
		p, rest, err := nextPkt(b)
		if err != nil {
			return w, err
		}
		b = rest
		if p.kind != pktData {
			continue
		}
		line := string(p.data)
		if !utf8.ValidString(line) {
			return w, errPkt
		}
		word, value, _ := strings.Cut(line, " ")
		switch {
		case first && strings.HasPrefix(line, "command="):
			step, ok := map[string]string{"ls-refs": "list", "fetch": "fetch", "object-info": "info"}[strings.TrimPrefix(line, "command=")]
			if !ok {
				return w, errPkt
			}
			w.step = step
		case first && word != "want" && word != "shallow" && word != "deepen" && word != "filter":
			return w, errPkt
		case strings.HasPrefix(line, "command="): // a second one
			return w, errPkt
		case word == "ref-prefix":
			w.prefixes = append(w.prefixes, value)
		case word == "want-ref":
			w.refs = append(w.refs, value)
		}
	}
	return w, nil
}

// readUpdates reads the commands of a push and the options after them, and
// finds out which updates move forward.
func (g *gitRequest) readUpdates(b []byte) (options []string, err error) {
	withOptions, seen := false, map[string]bool{}
	for {
		p, rest, err := nextPkt(b)
		if err != nil || p.kind != pktData && p.kind != pktFlush {
			return nil, errors.New("the commands of the push cannot be read")
		}
		b = rest
		if p.kind == pktFlush {
			break
		}
		line, caps, first := bytes.Cut(p.data, []byte{0})
		if first && len(g.updates) > 0 {
			return nil, errors.New("the push says twice what the client can do")
		}
		if first {
			words := strings.Fields(string(caps))
			for _, w := range words {
				g.report = g.report || w == "report-status" || w == "report-status-v2"
				g.sideband = g.sideband || w == "side-band-64k"
				withOptions = withOptions || w == "push-options"
			}
		}
		if bytes.HasPrefix(line, []byte("shallow ")) && len(g.updates) == 0 {
			continue
		}
		u, err := readUpdate(string(bytes.TrimSuffix(line, []byte("\n"))))
		switch {
		case err != nil:
			return nil, err
		case seen[u.ref] || len(g.updates) == maxUpdates:
			return nil, fmt.Errorf("the push updates %.80q twice, or more than %d refs", u.ref, maxUpdates)
		}
		seen[u.ref] = true
		g.updates = append(g.updates, u)
	}
	if withOptions && len(g.updates) > 0 {
		if options, b, err = readOptions(b); err != nil {
			return nil, err
		}
	}
	return options, g.judge(b)
}

func readOptions(b []byte) (options []string, rest []byte, err error) {
	for {
		p, rest, err := nextPkt(b)
		switch {
		case err != nil, p.kind != pktData && p.kind != pktFlush, !utf8.Valid(p.data), len(options) > 100:
			return nil, nil, errors.New("the options of the push cannot be read")
		case p.kind == pktFlush:
			return options, rest, nil
		}
		options, b = append(options, string(p.data)), rest
	}
}

// readUpdate reads "OLD NEW REF".
func readUpdate(line string) (update, error) {
	old, rest, _ := strings.Cut(line, " ")
	now, ref, _ := strings.Cut(rest, " ")
	switch {
	case strings.HasPrefix(line, "push-cert"):
		return update{}, errors.New("signed pushes are not read; push without --signed")
	case !isName(old) || !isName(now) || len(old) != len(now):
		return update{}, errors.New("a command of the push does not name two objects")
	case !plainRef(ref):
		return update{}, errors.New("a command of the push does not name a ref (git check-ref-format)")
	}
	return update{ref: ref, old: old, now: now}, nil
}

// plainRef reports whether ref is a name that git takes for a ref.
func plainRef(ref string) bool {
	if !strings.HasPrefix(ref, "refs/") || len(ref) > 1024 || !utf8.ValidString(ref) || strings.ContainsAny(ref, " ~^:?*[\\") || strings.HasSuffix(ref, ".") || strings.Contains(ref, "@{") || strings.Contains(ref, "..") {
		return false
	}
	for part := range strings.SplitSeq(ref, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return !strings.ContainsFunc(ref, unicode.IsControl)
}

// judge says what becomes of each ref.
func (g *gitRequest) judge(pack []byte) error {
	var commits history
	for i, u := range g.updates {
		zero := strings.Repeat("0", len(u.old))
		switch {
		case u.old == zero && u.now == zero:
			return errors.New("a command of the push neither creates nor deletes")
		case u.old == zero:
			g.updates[i].kind = kindCreate
		case u.now == zero:
			g.updates[i].kind = kindDelete
		default:
			if commits == nil {
				commits = readPack(pack, len(u.old)/2)
			}
			g.updates[i].kind = kindRewrite
			if strings.HasPrefix(u.ref, "refs/heads/") && commits.leads(u.now, u.old) {
				g.updates[i].kind = kindUpdate
			}
		}
	}
	return nil
}

// refuseGit tells git why, in its own protocol, so that a person reads it: git
// shows nothing of an HTTP error. It reports false if that is not possible.
func (x *exchange) refuseGit(r *gateway.Refusal) bool {
	g := x.git
	if g == nil || !r.Denied() || x.absent {
		return false
	}
	text := sentence(r)
	var out []byte
	media := "application/x-" + g.service
	switch {
	case g.list:
		out = appendPkt(nil, []byte("# service="+g.service+"\n"))
		out = append(out, "0000"...)
		out = appendPkt(out, []byte("ERR "+text+"\n"))
		media += "-advertisement"
	case g.step() == "push" && g.report:
		out = g.rejected(text)
		media += "-result"
	default:
		out = appendPkt(nil, []byte("ERR "+text+"\n"))
		media += "-result"
	}
	h := x.w.Header()
	h.Set("Content-Type", media)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(out)))
	x.w.WriteHeader(http.StatusOK)
	_, _ = x.w.Write(out) // if this fails, the client has left
	return true
}

// rejected reports every ref of a push as refused.
func (g *gitRequest) rejected(text string) []byte {
	short := text[:min(len(text), 200)]
	report := appendPkt(nil, []byte("unpack ok\n"))
	for _, u := range g.updates {
		report = appendPkt(report, []byte("ng "+u.ref+" "+strings.ToValidUTF8(short, "")+"\n"))
	}
	report = append(report, "0000"...)
	if !g.sideband {
		return report
	}
	out := appendPkt(nil, []byte("\x02countersign: "+text+"\n"))
	const most = 60000
	for len(report) > 0 {
		n := min(len(report), most)
		out = appendPkt(out, append([]byte{1}, report[:n]...))
		report = report[n:]
	}
	return append(out, "0000"...)
}

// sentence is a refusal in one line.
func sentence(r *gateway.Refusal) string {
	text := strings.Join(append([]string{r.Reason}, r.Advice...), ". ")
	if r.Held() && r.Approval != nil {
		text += " (" + r.Approval.URL + "); repeat the push when they have decided"
	}
	if r.Event != "" {
		text += " (" + r.Event + ")"
	}
	text = strings.Join(strings.Fields(text), " ")
	return strings.ToValidUTF8(text[:min(len(text), 900)], "")
}
