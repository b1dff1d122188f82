package console

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"text/template/parse"
	"time"
)

// parse reads the templates: layout.html and parts.html are in every page, and
// each other file is one page named as it.
func (c *Console) parse() error {
	base, err := template.New("base").Funcs(c.functions()).ParseFS(files, "templates/layout.html", "templates/parts.html")
	if err != nil {
		return err
	}
	names, err := fs.Glob(files, "templates/*.html")
	if err != nil {
		return err
	}
	c.templates = map[string]*template.Template{}
	for _, name := range names {
		page := strings.TrimSuffix(path.Base(name), ".html")
		if page == "layout" || page == "parts" {
			continue
		}
		t, err := base.Clone()
		if err != nil {
			return err
		}
		if t, err = t.ParseFS(files, name); err != nil {
			return err
		}
		for _, part := range t.Templates() {
			if part.Tree != nil {
				throughText(part.Tree.Root)
			}
		}
		c.templates[page] = t
	}
	return nil
}

// throughText makes every value that a template prints go through text, so
// that nobody has to think of it.
func throughText(n parse.Node) {
	switch n := n.(type) {
	case *parse.ListNode:
		if n == nil {
			return
		}
		for _, c := range n.Nodes {
			throughText(c)
		}
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 && !endsInText(n.Pipe) {
			n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{parse.NewIdentifier("text").SetPos(n.Pos)}})
		}
	case *parse.IfNode:
		throughBoth(&n.BranchNode)
	case *parse.RangeNode:
		throughBoth(&n.BranchNode)
	case *parse.WithNode:
		throughBoth(&n.BranchNode)
	}
}

func throughBoth(b *parse.BranchNode) {
	throughText(b.List)
	if b.ElseList != nil {
		throughText(b.ElseList)
	}
}

func endsInText(p *parse.PipeNode) bool {
	last := p.Cmds[len(p.Cmds)-1]
	id, ok := last.Args[0].(*parse.IdentifierNode)
	return ok && id.Ident == "text"
}

// functions are what templates may call.
func (c *Console) functions() template.FuncMap {
	return template.FuncMap{
		"text":    text,
		"lines":   lines,
		"dotted":  dotted,
		"own":     func(s string) plain { return plain(s) },
		"ago":     c.ago,
		"until":   c.until,
		"at":      at,
		"path":    pathOf,
		"query":   queryOf,
		"asset":   func(name string) template.URL { return template.URL(c.addresses[name]) }, //nolint:gosec // ours
		"icon":    icon,
		"badge":   badge,
		"micros":  micros,
		"count":   grouped,
		"bytes":   size,
		"short":   shortID,
		"plural":  plural,
		"offered": offered,
		"join":    func(s []string) string { return strings.Join(s, ", ") },
		"version": func() string { return c.version },
		"pairs":   pairs,
		"initial": initial,
		"rules":   rulesOf,
		"json":    indented,

		"result":   resultWord,
		"strip":    strip,
		"sharebar": shareBar,
		"object":   objectPath,
		"about":    eventsAbout,
		"ruleof":   ruleOfFinding,
		"pins":     pins,

		"budgetfor": budgetFor,
		"amount":    amountOf,
		"used":      usedOf,
		"known":     known,
	}
}

// pairs makes a map for a part that takes several values.
func pairs(kv ...any) (map[string]any, error) {
	m := map[string]any{}
	for i := 0; i+1 < len(kv); i += 2 {
		k, ok := kv[i].(string)
		if !ok {
			return nil, fmt.Errorf("pairs: %v is no name", kv[i])
		}
		m[k] = kv[i+1]
	}
	return m, nil
}

// pathOf joins a path of ours with segments that may hold anything. A segment
// that is "." or ".." would be taken away: it leads nowhere instead.
func pathOf(base string, segments ...string) template.URL {
	joined := base
	for _, s := range segments {
		if s == "." || s == ".." {
			s = "?"
		}
		joined += "/" + url.PathEscape(s)
	}
	return template.URL(joined) //nolint:gosec // escaped
}

// queryOf adds parameters to a path of ours.
func queryOf(base string, kv ...string) template.URL {
	v := url.Values{}
	for i := 0; i+1 < len(kv); i += 2 {
		v.Set(kv[i], kv[i+1])
	}
	return template.URL(base + "?" + v.Encode()) //nolint:gosec // escaped
}

// at shows a time exactly.
func at(t time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">never</span>`
	}
	s := t.UTC().Format("2006-01-02 15:04:05.000 UTC")
	return template.HTML(`<time datetime="` + t.UTC().Format(time.RFC3339Nano) + `">` + s + `</time>`) //nolint:gosec // a time
}

// ago shows how long ago t was; the exact time is in its title.
func (c *Console) ago(t time.Time) template.HTML { return relative(t, c.now(), "never") }

// until shows how long it is to t.
func (c *Console) until(t time.Time) template.HTML { return relative(t, c.now(), "no end") }

func relative(t, now time.Time, none string) template.HTML {
	if t.IsZero() {
		return template.HTML(`<span class="none">` + none + `</span>`) //nolint:gosec // ours
	}
	words := ""
	switch d := now.Sub(t); {
	case d < 0:
		words = "in " + span(-d)
	case d < 5*time.Second:
		words = "now"
	default:
		words = span(d) + " ago"
	}
	u := t.UTC()
	return template.HTML(`<time data-relative datetime="` + u.Format(time.RFC3339Nano) + `" title="` + u.Format("Monday, 2 January 2006, 15:04:05 UTC") + `">` + words + `</time>`) //nolint:gosec // a time
}

// span says a duration in its largest unit. The same is in app.js.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " d"
}

// micros says a duration given in microseconds.
func micros(n int64) string {
	switch {
	case n < 1000:
		return strconv.FormatInt(n, 10) + " µs"
	case n < 10_000:
		return strconv.FormatFloat(float64(n)/1000, 'f', 1, 64) + " ms"
	case n < 1_000_000:
		return strconv.FormatInt(n/1000, 10) + " ms"
	}
	return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " s"
}

// grouped writes a number with commas.
func grouped(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(n int64) string {
	switch {
	case n < 1<<10:
		return strconv.FormatInt(n, 10) + " B"
	case n < 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<10), 'f', 1, 64) + " KiB"
	}
	return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB"
}

// shortID shows the end of an identifier, which tells it from others of its time.
func shortID(id string) string {
	if len(id) <= 12 {
		return id
	}
	kind, _, _ := strings.Cut(id, "_")
	return kind + "…" + id[len(id)-6:]
}

// plural is "1 agent" or "3 agents".
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "y") && !strings.HasSuffix(one, "ay") {
		return grouped(n) + " " + strings.TrimSuffix(one, "y") + "ies"
	}
	return grouped(n) + " " + one + "s"
}

// initial is what stands for a person's face.
func initial(name string) string {
	for _, r := range name {
		return strings.ToUpper(string(r))
	}
	return "?"
}

// model is what a template sees: the visit and the page's own data.
type model struct {
	*visit
	Data any
	Nav  []entry
	Path string
}

// render writes a page, compressed where the browser takes it.
func (c *Console) render(w http.ResponseWriter, r *http.Request, status int, name string, v *visit, data any) {
	t, ok := c.templates[name]
	var b bytes.Buffer
	err := fmt.Errorf("there is no template %q", name)
	if ok {
		err = t.ExecuteTemplate(&b, "layout", model{v, data, v.nav(), r.URL.Path})
	}
	if err != nil {
		c.log.ErrorContext(r.Context(), "a page could not be rendered", "page", name, "error", err)
		http.Error(w, "The page could not be made. The server's own log says why.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Vary", "Accept-Encoding, HX-Request")
	if takesGzip(r) && b.Len() > 1000 {
		h.Set("Content-Encoding", "gzip")
		var z bytes.Buffer
		zw, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed) // a level that there is
		_, _ = zw.Write(b.Bytes())                       // into memory
		_ = zw.Close()
		b = z
	}
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(b.Bytes()) // the reader went away
	}
}
