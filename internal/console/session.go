package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json/v2"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/client"
)

// Names of cookies. Over https they have the prefix that ties a cookie to
// exactly this host (RFC 6265bis, section 4.1.3).
const (
	sessionCookie = "countersign"
	saidCookie    = "countersign_said"
)

func (c *Console) cookieName(name string) string {
	if c.secure {
		return "__Host-" + name
	}
	return name
}

// setCookie sets a cookie that scripts and other sites do not see. An empty
// value takes it away.
func (c *Console) setCookie(w http.ResponseWriter, name, value string, life time.Duration) {
	k := http.Cookie{Name: c.cookieName(name), Value: value, Path: "/", HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteStrictMode, MaxAge: int(life / time.Second)}
	if value == "" {
		k.MaxAge = -1
	}
	http.SetCookie(w, &k)
}

func (c *Console) cookie(r *http.Request, name string) string {
	k, err := r.Cookie(c.cookieName(name))
	if err != nil {
		return ""
	}
	return k.Value
}

// sessionLife is how long the browser keeps a session, as long as one lasts.
const sessionLife = 12 * time.Hour

// A token against forged requests: random bytes and their MAC with the session
// it was given to. It is another one on every page, so that nothing can be
// learnt from the length of compressed answers.

func (c *Console) csrf(session string) string {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(append(nonce, c.mac(nonce, session)...))
}

func (c *Console) mac(nonce []byte, session string) []byte {
	m := hmac.New(sha256.New, c.key)
	m.Write(nonce)
	m.Write([]byte(session))
	return m.Sum(nil)
}

func (c *Console) csrfHolds(token, session string) bool {
	b, err := base64.RawURLEncoding.DecodeString(token)
	return err == nil && len(b) == 16+sha256.Size && hmac.Equal(b[16:], c.mac(b[:16], session))
}

// said is what the last action has to tell on the next page.
type said struct {
	Good bool   `json:"good"`
	Text string `json:"text"`
}

func (c *Console) say(w http.ResponseWriter, s said) {
	if len(s.Text) > 800 {
		s.Text = strings.ToValidUTF8(s.Text[:800], "") + "…"
	}
	b, err := json.Marshal(s)
	if err != nil {
		return // invalid UTF-8 in a name: the page tells enough without
	}
	c.setCookie(w, saidCookie, base64.RawURLEncoding.EncodeToString(b), time.Minute)
}

func (c *Console) heard(w http.ResponseWriter, r *http.Request) *said {
	value := c.cookie(r, saidCookie)
	if value == "" {
		return nil
	}
	c.setCookie(w, saidCookie, "", 0)
	var s said
	b, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil || json.Unmarshal(b, &s) != nil {
		return nil
	}
	return &s
}

// signIn is what the sign-in page shows.
type signIn struct {
	Next, Name string
	Token      bool // the form for a token is open
	Provider   bool // there is an identity provider
	Problem    string
}

// local returns where to go after signing in: a path of ours, or the start.
func local(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") || strings.HasPrefix(next, "/sign-") {
		return "/"
	}
	return next
}

func (c *Console) showSignIn(w http.ResponseWriter, r *http.Request) {
	c.signInPage(w, r, http.StatusOK, signIn{Next: local(r.URL.Query().Get("next"))})
}

func (c *Console) signInPage(w http.ResponseWriter, r *http.Request, status int, s signIn) {
	s.Provider = c.provider
	v := &visit{Request: r, CSRF: c.csrf(""), Title: "Sign in", console: c, Said: c.heard(w, r)}
	c.render(w, r, status, "sign-in", v, s)
}

// doSignIn checks a name and password, or a token, with the API, which counts
// attempts per name and network.
func (c *Console) doSignIn(w http.ResponseWriter, r *http.Request) {
	s := signIn{Next: local(r.PostFormValue("next")), Name: r.PostFormValue("name")}
	token := strings.TrimSpace(r.PostFormValue("token"))
	api := c.api(r, "")
	var err error
	if s.Token = token != ""; s.Token {
		_, err = c.api(r, token).Me(r.Context())
	} else {
		var session client.Session
		session, err = api.Login(r.Context(), s.Name, r.PostFormValue("password"))
		token = session.Token
	}
	if err != nil {
		status := http.StatusBadGateway
		s.Problem = "The server could not check this: " + err.Error()
		if e, ok := errors.AsType[*client.Error](err); ok {
			status, s.Problem = e.Status, e.Detail
			if s.Token && e.Status == http.StatusUnauthorized {
				s.Problem = "The token is unknown, expired or revoked."
			}
		}
		c.signInPage(w, r, status, s)
		return
	}
	c.setCookie(w, sessionCookie, token, sessionLife)
	http.Redirect(w, r, s.Next, http.StatusSeeOther)
}

// doSignOut ends the session. A token that was made for programs lives on: the
// browser forgets it.
func (c *Console) doSignOut(w http.ResponseWriter, r *http.Request) {
	session := c.cookie(r, sessionCookie)
	api := c.api(r, session)
	tokens, err := api.Tokens(r.Context(), "")
	if err == nil && slices.ContainsFunc(tokens, func(t client.Token) bool { return t.Present && t.Kind == "session" }) {
		err = api.Logout(r.Context())
	}
	if e, ok := errors.AsType[*client.Error](err); err != nil && (!ok || e.Status != http.StatusUnauthorized) {
		c.say(w, said{Text: "You are not signed out: " + err.Error()})
		http.Redirect(w, r, "/profile", http.StatusSeeOther)
		return
	}
	c.setCookie(w, sessionCookie, "", 0)
	http.Redirect(w, r, "/sign-in", http.StatusSeeOther)
}
