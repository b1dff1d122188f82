package console

import (
	"context"
	"errors"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

// Options are what the console needs.
type Options struct {
	API      http.Handler // serves /api/; required
	Log      http.Handler // serves /log/, which browsers verify with; nil if this address serves it anyway
	Key      []byte       // 32 secret bytes, the same on every replica; required
	Provider bool         // people may sign in at an identity provider
	Secure   bool         // people reach it over https
	Version  string
	URL      string // how agents reach the server
	Logger   *slog.Logger
	Now      func() time.Time // nil: time.Now
}

// Console serves the pages. It is safe for concurrent use.
type Console struct {
	handler   http.Handler // the API
	key       []byte
	secure    bool
	provider  bool
	version   string
	url       string
	log       *slog.Logger
	now       func() time.Time
	mux       *http.ServeMux
	assets    map[string]asset
	addresses map[string]string
	templates map[string]*template.Template
}

// New builds the console; it fails if a template or asset is broken.
func New(o Options) (*Console, error) {
	c := &Console{handler: o.API, key: o.Key, secure: o.Secure, provider: o.Provider, version: o.Version, url: o.URL, log: o.Logger, now: o.Now, mux: http.NewServeMux()}
	if c.now == nil {
		c.now = time.Now
	}
	var err error
	if c.assets, c.addresses, err = loadAssets(); err != nil {
		return nil, err
	}
	if err := c.parse(); err != nil {
		return nil, err
	}
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(c.forged))
	handle := func(pattern string, h http.HandlerFunc) { c.mux.Handle(pattern, guard.Handler(c.dressed(h))) }
	handle("GET /assets/", c.serveAsset)
	handle("GET /sign-in", c.showSignIn)
	handle("POST /sign-in", c.unforged(func(*http.Request) string { return "" }, c.doSignIn))
	handle("GET /sign-in/provider", c.toProvider)
	handle("GET "+providerBack, c.fromProvider)
	handle("POST /sign-out", c.unforged(c.session, c.doSignOut))
	handle("GET /live", c.live)
	for _, p := range pages {
		handle("GET "+p.path, c.page(p))
	}
	for _, a := range actions {
		handle("POST "+a.path, c.unforged(c.session, c.action(a)))
	}
	for _, q := range questions {
		handle("POST "+q.path, c.unforged(c.session, c.question(q.ask)))
	}
	if o.Log != nil {
		c.mux.Handle("GET /log/", o.Log)
	}
	handle("/", c.missing)
	return c, nil
}

// ServeHTTP implements http.Handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// policy is the content security policy of every page: nothing but our own
// files, no inline script or style, no frames.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// maxForm is the largest form an action reads, in bytes.
const maxForm = 2 << 20

// dressed sets what every answer carries.
func (c *Console) dressed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=()")
		h.Set("Cache-Control", "no-store")
		if c.secure {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		next(w, r)
	}
}

func (c *Console) session(r *http.Request) string { return c.cookie(r, sessionCookie) }

// unforged lets only forms pass that this console gave to this session.
func (c *Console) unforged(session func(*http.Request) string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			c.fail(w, r, &visit{Request: r, console: c}, &client.Error{Status: http.StatusRequestEntityTooLarge, Detail: "The form could not be read, or is too large."})
			return
		}
		if !c.csrfHolds(r.PostFormValue("csrf"), session(r)) {
			c.forged(w, r)
			return
		}
		next(w, r)
	}
}

func (c *Console) forged(w http.ResponseWriter, r *http.Request) {
	c.fail(w, r, &visit{Request: r, console: c}, &client.Error{Status: http.StatusForbidden, Detail: "This form is not from this console, or from before you signed in. Open the page again and repeat."})
}

// api returns a client of the API that acts with session, as the request's sender.
func (c *Console) api(r *http.Request, session string) *client.Client {
	return client.New("http://console", session).WithTransport(inProcess{c.handler, r.RemoteAddr})
}

// visit is one request of a signed-in person to a page or an action.
type visit struct {
	Request *http.Request
	API     *client.Client
	Me      client.Me
	CSRF    string
	Title   string
	Section string // which entry of the navigation is the present one
	Said    *said
	Problem string     // what the API said about the form
	Form    url.Values // what was sent, to fill the form again
	Waiting int        // approvals that wait for this person
	console *Console
}

// May reports whether the person's role may do what need names (docs/roles.md).
func (v *visit) May(need string) bool {
	for _, m := range v.Me.May {
		if m == need {
			return true
		}
	}
	return false
}

// Query returns a parameter of the page's address.
func (v *visit) Query(name string) string { return v.Request.URL.Query().Get(name) }

// Field returns what was sent in a field of the form, else otherwise.
func (v *visit) Field(name, otherwise string) string {
	if v.Form != nil {
		return v.Form.Get(name)
	}
	return otherwise
}

// Here is the page's own address.
func (v *visit) Here() template.URL { return v.with() }

// With is the page's address with other parameters.
func (v *visit) With(kv ...string) template.URL { return v.with(kv...) }

// Now is the time of the visit.
func (v *visit) Now() time.Time { return v.console.now() }

// ctx ends with the request.
func (v *visit) ctx() context.Context { return v.Request.Context() }

// reason returns the client with the reason that the form gives.
func (v *visit) reason() *client.Client { return v.API.WithReason(v.Form.Get("reason")) }

// enter finds out who visits. It answers by itself, and returns nil, when
// nobody is signed in.
func (c *Console) enter(w http.ResponseWriter, r *http.Request) *visit {
	session := c.session(r)
	v := &visit{Request: r, console: c, CSRF: c.csrf(session)}
	if session == "" && r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Method == http.MethodGet {
		// A link from elsewhere: strict cookies come only with what a page of ours
		// asks for, so this page asks again.
		c.render(w, r, http.StatusOK, "again", v, nil)
		return nil
	}
	if session == "" {
		c.toSignIn(w, r)
		return nil
	}
	v.API = c.api(r, session)
	me, err := v.API.Me(r.Context())
	if err != nil {
		c.fail(w, r, v, err)
		return nil
	}
	v.Me = me
	return v
}

func (c *Console) toSignIn(w http.ResponseWriter, r *http.Request) {
	target := "/sign-in"
	if r.Method == http.MethodGet && r.URL.Path != "/" && r.URL.Path != "/live" {
		target += "?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
	}
	if r.Header.Get("HX-Request") != "" {
		w.Header().Set("HX-Redirect", target)
	}
	http.Redirect(w, r, target, http.StatusSeeOther)
}

// page serves one row of pages.
func (c *Console) page(p page) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := c.enter(w, r)
		if v == nil {
			return
		}
		v.Said = c.heard(w, r)
		c.show(w, r, http.StatusOK, p, v)
	}
}

func (c *Console) show(w http.ResponseWriter, r *http.Request, status int, p page, v *visit) {
	v.Title, v.Section = p.title, p.section
	data, err := p.show(c, v)
	if err != nil {
		c.fail(w, r, v, err)
		return
	}
	if as := r.URL.Query().Get("as"); as != "" && r.Method == http.MethodGet {
		c.export(w, r, v, as, data)
		return
	}
	if err := v.count(); err != nil {
		c.fail(w, r, v, err)
		return
	}
	c.render(w, r, status, p.name, v, data)
}

// action serves one row of actions. When the API refuses, the action's page is
// shown again with what the API said and what the person had written.
func (c *Console) action(a action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := c.enter(w, r)
		if v == nil {
			return
		}
		v.Form = r.PostForm
		done, err := a.do(c, v)
		if err == nil {
			if done.session != "" {
				c.setCookie(w, sessionCookie, done.session, sessionLife)
			}
			if done.said != "" {
				c.say(w, said{Good: true, Text: done.said})
			}
			if done.body != nil {
				c.save(w, r, done)
				return
			}
			if done.data != nil {
				v.Form = nil
				v.Title, v.Section = done.title, a.section()
				if err = v.count(); err == nil {
					c.render(w, r, http.StatusOK, done.template, v, done.data)
					return
				}
			} else {
				http.Redirect(w, r, done.to, http.StatusSeeOther)
				return
			}
		}
		e, ok := errors.AsType[*client.Error](err)
		p := pageNamed(a.page)
		if !ok || e.Status >= 500 || e.Status == http.StatusUnauthorized || p == nil {
			c.fail(w, r, v, err)
			return
		}
		v.Problem = e.Error()
		c.show(w, r, e.Status, *p, v)
	}
}

// save hands a file to the browser.
func (c *Console) save(w http.ResponseWriter, r *http.Request, d done) {
	defer d.body.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="`+d.file+`"`)
	if _, err := io.Copy(w, d.body); err != nil {
		c.log.InfoContext(r.Context(), "a file was not saved whole", "file", d.file, "error", err)
		panic(http.ErrAbortHandler) // the browser sees that it is not whole
	}
}

// Severities lists them, the worst first.
func (v *visit) Severities() []string { return []string{"critical", "high", "medium", "low", "info"} }

// fail shows an error page. Only what the API meant for people is shown.
func (c *Console) fail(w http.ResponseWriter, r *http.Request, v *visit, err error) {
	e, ok := errors.AsType[*client.Error](err)
	switch {
	case r.Context().Err() != nil:
		return // nobody is there to read it
	case !ok:
		c.log.ErrorContext(r.Context(), "a page failed", "path", r.URL.Path, "error", err)
		e = &client.Error{Status: http.StatusInternalServerError, Detail: "The page could not be made. The server's own log says why."}
	case e.Status == http.StatusUnauthorized:
		c.setCookie(w, sessionCookie, "", 0)
		c.say(w, said{Text: "Your session has ended. Sign in again."})
		c.toSignIn(w, r)
		return
	}
	v.Title = http.StatusText(e.Status)
	c.render(w, r, e.Status, "error", v, e)
}

func (c *Console) missing(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "there is nothing here", http.StatusNotFound)
		return
	}
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("Countersign\n\nmodels  /llm/{connection}/...\ntools   /mcp and /mcp/{connection}\nAPI     /api/openapi.json\nconsole /\n"))
		return
	}
	v := c.enter(w, r)
	if v == nil {
		return
	}
	c.fail(w, r, v, &client.Error{Status: http.StatusNotFound, Detail: "There is no such page."})
}
