package oauth

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/rest"
	"github.com/countersign/countersign/internal/tokens"
)

// cookie holds a person's session while they consent.
const (
	cookie    = "countersign_consent"
	cookieAge = 600 // seconds
)

// authorize begins an authorization: it shows the sign-in page, or to who has
// signed in the consent page.
func (f *Front) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p, err := f.o.Tokens.Plan(r.Context(), q)
	if err != nil {
		f.turnAway(w, r, q.Get("client_id"), err)
		return
	}
	c, session, ok := f.person(r)
	if !ok {
		f.page(w, http.StatusOK, "", page{Plan: p, Request: r.URL.RawQuery, SignIn: true})
		return
	}
	f.ask(w, c, session, p, r.URL.RawQuery)
}

// turnAway tells the client at its redirect URI, or the person when it is not
// sure whose URI that is.
func (f *Front) turnAway(w http.ResponseWriter, r *http.Request, client string, err error) {
	f.o.Tokens.Refused(r.Context(), tokens.Refusal{Door: "authorize", Agent: client, Remote: host(r.RemoteAddr), Client: r.UserAgent()}, err)
	if back, ok := errors.AsType[*tokens.RedirectError](err); ok {
		f.redirect(w, back.Redirect, url.Values{"error": {back.Fault.Code}, "error_description": {ascii(back.Fault.Message)}, "state": {back.State}})
		return
	}
	public := fault.Public(err)
	status := http.StatusBadRequest
	if public.Kind == fault.Internal || public.Kind == fault.Unavailable {
		status = public.Kind.Status()
	}
	f.page(w, status, "", page{Problem: public.Message})
}

// redirect sends the browser back to the client, with our name (RFC 9207) so
// that it cannot mistake another issuer's answer for ours.
func (f *Front) redirect(w http.ResponseWriter, to string, q url.Values) {
	u, err := url.Parse(to)
	if err != nil {
		f.page(w, http.StatusBadRequest, "", page{Problem: "the client's redirect URI cannot be read"})
		return
	}
	all := u.Query()
	for k, v := range q {
		if v[0] != "" {
			all[k] = v
		}
	}
	all.Set("iss", f.o.Tokens.Issuer())
	u.RawQuery = all.Encode()
	f.goTo(w, u.String())
}

// person returns who signed in, and the session.
func (f *Front) person(r *http.Request) (rest.Caller, string, bool) {
	k, err := r.Cookie(cookie)
	if err != nil {
		return rest.Caller{}, "", false
	}
	c, err := f.o.People.AuthenticateUser(r.Context(), k.Value)
	if err != nil {
		return rest.Caller{}, "", false
	}
	c.Remote = host(r.RemoteAddr)
	return c, k.Value, true
}

// bind ties a form to a session and to what the person was shown.
func (f *Front) bind(session, request string) string {
	m := hmac.New(sha256.New, f.o.Key)
	m.Write([]byte(session + "\x00" + request))
	return hex.EncodeToString(m.Sum(nil))
}

func (f *Front) ask(w http.ResponseWriter, c rest.Caller, session string, p tokens.Plan, request string) {
	v := page{Plan: p, Request: request, Person: c.Name, Bound: f.bind(session, request), Choices: f.o.Tokens.Choices(c, p.Client)}
	for _, d := range p.Doors {
		v.Resources = append(v.Resources, f.o.Tokens.Issuer()+d)
	}
	if u, err := url.Parse(p.Redirect); err == nil {
		v.Target = u.Scheme + "://" + u.Host
	}
	f.page(w, http.StatusOK, target(p.Redirect), v)
}

// target is the source that a page's policy must allow for the redirect after
// its form.
func target(redirect string) string {
	u, err := url.Parse(redirect)
	switch {
	case err != nil:
		return ""
	case u.Scheme == "http" || u.Scheme == "https":
		return u.Scheme + "://" + u.Host
	}
	return u.Scheme + ":"
}

// login takes a name and a password.
func (f *Front) login(w http.ResponseWriter, r *http.Request) {
	q, p, ok := f.posted(w, r)
	if !ok {
		return
	}
	_, session, err := f.o.People.Login(r.Context(), q.Get("name"), q.Get("password"), host(r.RemoteAddr))
	if err != nil {
		f.signInAgain(w, p, q.Get("request"), err)
		return
	}
	f.keep(w, cookie, session)
	f.goTo(w, "/oauth2/authorize?"+q.Get("request"))
}

func (f *Front) secure() bool { return strings.HasPrefix(f.o.Tokens.Issuer(), "https://") }

// posted reads a form of one of our pages and the authorization request in it,
// which is checked again: it went through a browser.
func (f *Front) posted(w http.ResponseWriter, r *http.Request) (url.Values, tokens.Plan, bool) {
	if err := f.origin.Check(r); err != nil {
		f.turnAway(w, r, "", tokens.ErrRequest.Say("this form was sent from another site").With(err))
		return nil, tokens.Plan{}, false
	}
	q, err := form(w, r)
	var p tokens.Plan
	if err == nil {
		var request url.Values
		if request, err = url.ParseQuery(q.Get("request")); err != nil {
			err = tokens.ErrRequest.Say("the form is damaged; begin again").With(err)
		} else {
			p, err = f.o.Tokens.Plan(r.Context(), request)
		}
	}
	if err != nil {
		f.turnAway(w, r, "", err)
		return nil, p, false
	}
	return q, p, true
}

// consent takes a person's answer. The session ends with it: the next consent,
// a step-up for instance, takes a new sign-in.
func (f *Front) consent(w http.ResponseWriter, r *http.Request) {
	q, p, ok := f.posted(w, r)
	if !ok {
		return
	}
	c, session, ok := f.person(r)
	if !ok {
		f.page(w, http.StatusOK, "", page{Plan: p, Request: q.Get("request"), SignIn: true, Problem: "Your session has ended. Sign in again."})
		return
	}
	if !hmac.Equal([]byte(q.Get("bound")), []byte(f.bind(session, q.Get("request")))) {
		f.turnAway(w, r, p.Client.ClientID, tokens.ErrRequest.Say("this form does not belong to your session; begin again"))
		return
	}
	if q.Get("answer") != "allow" {
		if err := f.o.Tokens.Declined(r.Context(), c, p); err != nil {
			f.turnAway(w, r, p.Client.ClientID, err)
			return
		}
		f.forget(w, r, c)
		f.redirect(w, p.Redirect, url.Values{"error": {"access_denied"}, "error_description": {"the person declined"}, "state": {p.State}})
		return
	}
	code, err := f.o.Tokens.Consent(r.Context(), c, p, q.Get("agent"))
	if err != nil {
		f.turnAway(w, r, p.Client.ClientID, err)
		return
	}
	f.forget(w, r, c)
	f.redirect(w, p.Redirect, url.Values{"code": {code}, "state": {p.State}})
}

// forget ends the person's session and takes the cookie back.
func (f *Front) forget(w http.ResponseWriter, r *http.Request, c rest.Caller) {
	f.o.Tokens.SignOut(r.Context(), c)
	f.drop(w, cookie)
}

// page is what a page shows.
type page struct {
	Plan      tokens.Plan
	Request   string // the authorization request, as it came
	SignIn    bool
	Elsewhere bool // with SignIn: it can be done at the identity provider too
	Person    string
	Bound     string
	Target    string
	Resources []string
	Choices   []identity.Agent
	Problem   string
}

// page sends a page that runs nothing, is framed by nobody, and whose forms
// lead to us and to the client alone.
func (f *Front) page(w http.ResponseWriter, status int, formTarget string, p page) {
	p.Elsewhere = p.SignIn && f.external()
	var b bytes.Buffer
	if err := pages.Execute(&b, p); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", strings.TrimSpace("default-src 'none'; style-src 'sha256-"+styleHash+"'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+formTarget))
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a browser that went away needs no answer
}
