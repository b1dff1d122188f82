package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/identity"
	"github.com/countersign/countersign/internal/tokens"
)

// Elsewhere signs persons in at their identity provider, through their browser;
// signin.Service does.
type Elsewhere interface {
	// On reports whether there is a provider whose sign-in ends at this door.
	On() bool
	StartLogin(ctx context.Context, redirect, challenge, remote string) (at string, expires time.Time, err error)
	FinishLogin(ctx context.Context, ticket, verifier, remote string) (identity.Token, string, error)
}

const (
	// begun holds, while a person is at their provider, what the sign-in was
	// begun with and the authorization request that it is for.
	begun = "countersign_consent_begun"
	// maxBegun is how long a request may be that is kept there, in bytes: a
	// browser keeps cookies of 4 KiB.
	maxBegun = 2500
	// signedIn is where the browser comes back to.
	signedIn = "/oauth2/signed-in"
)

// elsewhere sends a person to their identity provider.
func (f *Front) elsewhere(w http.ResponseWriter, r *http.Request) {
	if !f.external() {
		http.NotFound(w, r)
		return
	}
	request := r.URL.Query().Get("request")
	p, ok := f.planned(w, r, request)
	if !ok {
		return
	}
	verifier := rand.Text() + rand.Text()
	sum := sha256.Sum256([]byte(verifier))
	var at string
	var err error
	if len(request) > maxBegun {
		err = tokens.ErrRequest.Say("the program's request is too long to sign in elsewhere; at most %d bytes", maxBegun)
	} else {
		at, _, err = f.o.Elsewhere.StartLogin(r.Context(), signedIn, base64.RawURLEncoding.EncodeToString(sum[:]), host(r.RemoteAddr))
	}
	if err != nil {
		f.signInAgain(w, p, request, err)
		return
	}
	f.keep(w, begun, verifier+"."+base64.RawURLEncoding.EncodeToString([]byte(request)))
	f.goTo(w, at)
}

// back takes a person who comes from their provider, with a ticket for a session
// that is of use only with what their own browser kept.
func (f *Front) back(w http.ResponseWriter, r *http.Request) {
	if !f.external() {
		http.NotFound(w, r)
		return
	}
	var verifier string
	var raw []byte
	k, err := r.Cookie(begun)
	if err == nil {
		var text string
		verifier, text, _ = strings.Cut(k.Value, ".")
		raw, err = base64.RawURLEncoding.DecodeString(text)
	}
	if err != nil {
		f.turnAway(w, r, "", tokens.ErrRequest.Say("this sign-in was not begun in this browser, or too long ago; begin again").With(err))
		return
	}
	f.drop(w, begun)
	p, ok := f.planned(w, r, string(raw))
	if !ok {
		return
	}
	q := r.URL.Query()
	if q.Get("ticket") == "" { // why not is in our own log; what stands here, anybody may have written
		f.signInAgain(w, p, string(raw), identity.ErrLogin.Say("your identity provider did not sign you in, or you may not sign in here"))
		return
	}
	_, session, err := f.o.Elsewhere.FinishLogin(r.Context(), q.Get("ticket"), verifier, host(r.RemoteAddr))
	if err != nil {
		f.signInAgain(w, p, string(raw), err)
		return
	}
	f.keep(w, cookie, session)
	f.goTo(w, "/oauth2/authorize?"+string(raw))
}

func (f *Front) external() bool { return f.o.Elsewhere != nil && f.o.Elsewhere.On() }

// planned checks an authorization request that went through a browser again.
func (f *Front) planned(w http.ResponseWriter, r *http.Request, request string) (tokens.Plan, bool) {
	q, err := url.ParseQuery(request)
	if err != nil {
		f.turnAway(w, r, "", tokens.ErrRequest.Say("the request is damaged; begin again").With(err))
		return tokens.Plan{}, false
	}
	p, err := f.o.Tokens.Plan(r.Context(), q)
	if err != nil {
		f.turnAway(w, r, q.Get("client_id"), err)
	}
	return p, err == nil
}

// signInAgain shows the sign-in page with what went wrong.
func (f *Front) signInAgain(w http.ResponseWriter, p tokens.Plan, request string, err error) {
	public := fault.Public(err)
	f.page(w, public.Kind.Status(), "", page{Plan: p, Request: request, SignIn: true, Problem: public.Message})
}

// keep gives the browser a cookie for these pages alone, for as long as a
// consent may take.
func (f *Front) keep(w http.ResponseWriter, name, value string) {
	http.SetCookie(w, &http.Cookie{Name: name, Value: value, Path: "/oauth2/", MaxAge: cookieAge, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: f.secure()})
}

func (f *Front) drop(w http.ResponseWriter, name string) {
	http.SetCookie(w, &http.Cookie{Name: name, Path: "/oauth2/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: f.secure()})
}

// goTo sends the browser on, saying nothing of where it was.
func (f *Front) goTo(w http.ResponseWriter, at string) {
	h := w.Header()
	h.Set("Location", at)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}
