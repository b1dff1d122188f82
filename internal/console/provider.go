package console

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

// A sign-in at the identity provider begins and ends here. What ties its end to
// the browser that began is a cookie that comes along when the provider's page sends
// the browser back: another site's page, so it cannot be a strict one.
const (
	providerCookie = "countersign_provider"
	providerBack   = "/sign-in/finish"
	providerLife   = 10 * time.Minute
)

func (c *Console) setProviderCookie(w http.ResponseWriter, value string, life time.Duration) {
	k := http.Cookie{Name: c.cookieName(providerCookie), Value: value, Path: "/", HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode, MaxAge: int(life / time.Second)}
	if value == "" {
		k.MaxAge = -1
	}
	http.SetCookie(w, &k)
}

// toProvider sends the browser to the identity provider.
func (c *Console) toProvider(w http.ResponseWriter, r *http.Request) {
	next := local(r.URL.Query().Get("next"))
	if len(next) > 1000 {
		next = "/"
	}
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	verifier := base64.RawURLEncoding.EncodeToString(b)
	sum := sha256.Sum256([]byte(verifier))
	begun, err := c.api(r, "").StartLogin(r.Context(), providerBack, base64.RawURLEncoding.EncodeToString(sum[:]))
	if err != nil {
		c.notSignedIn(w, r, next, err)
		return
	}
	c.setProviderCookie(w, verifier+"."+base64.RawURLEncoding.EncodeToString([]byte(next)), providerLife)
	http.Redirect(w, r, begun.URL, http.StatusSeeOther)
}

// fromProvider ends what toProvider began, in the same browser.
func (c *Console) fromProvider(w http.ResponseWriter, r *http.Request) {
	verifier, to, began := strings.Cut(c.cookie(r, providerCookie), ".")
	c.setProviderCookie(w, "", 0)
	b, _ := base64.RawURLEncoding.DecodeString(to) // what is no page of ours is the first one
	next, q := local(string(b)), r.URL.Query()
	switch {
	case !began:
		c.notSignedIn(w, r, next, &client.Error{Status: http.StatusBadRequest, Detail: "This sign-in was not begun in this browser, or too long ago. Begin again."})
		return
	case q.Get("ticket") == "":
		c.notSignedIn(w, r, next, &client.Error{Status: http.StatusForbidden, Detail: refusal(q.Get("error"))})
		return
	}
	session, err := c.api(r, "").FinishLogin(r.Context(), q.Get("ticket"), verifier)
	if err != nil {
		c.notSignedIn(w, r, next, err)
		return
	}
	c.setCookie(w, sessionCookie, session.Token, sessionLife)
	http.Redirect(w, r, next, http.StatusSeeOther)
}

// refusal says why nobody was signed in. Anybody can make up the address that a
// browser comes back to, so nothing of it is shown but a code.
func refusal(code string) string {
	const why = "You were not signed in: the identity provider declined, or this server does not take whom it vouches for"
	if code == "" || len(code) > 40 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return why + ". Ask an administrator; the log says more."
	}
	return why + " (" + code + "). Ask an administrator; the log says more."
}

func (c *Console) notSignedIn(w http.ResponseWriter, r *http.Request, next string, err error) {
	status, problem := http.StatusBadGateway, "The identity provider could not be asked. Try again, or sign in with a password."
	if e, ok := errors.AsType[*client.Error](err); ok {
		status, problem = e.Status, e.Detail
	}
	c.signInPage(w, r, status, signIn{Next: next, Problem: problem})
}
