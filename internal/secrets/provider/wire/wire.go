package wire

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json/v2"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/countersign/countersign/internal/dial"
	"github.com/countersign/countersign/internal/fault"
)

// Errors of this package. They hold what a provider's status says, never its
// words: these may quote a credential.
var (
	ErrURL     = fault.New(fault.Invalid, "provider_url", "the URL must begin with https://, or with http:// for a private address with allow_private=true")
	ErrAddress = fault.New(fault.Denied, "provider_address", "the provider's address is private; set allow_private=true if this is meant (addresses of cloud metadata services are never allowed)")
	ErrReach   = fault.New(fault.Upstream, "provider_unreachable", "the provider cannot be reached, or did not answer in time")
	ErrStatus  = fault.New(fault.Upstream, "provider_refused", "the provider refused")
	ErrAnswer  = fault.New(fault.Upstream, "provider_answer", "the provider's answer could not be understood")
)

const (
	patience  = 15 * time.Second
	maxAnswer = 1 << 20
)

// Client speaks to providers. Private lets it reach private addresses, and
// those without TLS.
type Client struct{ Private bool }

// Allow reads the setting allow_private.
func Allow(settings map[string]string) Client { return Client{settings["allow_private"] == "true"} }

// Check says what is wrong with a provider's URL.
func (c Client) Check(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil, u.Host == "", u.User != nil, u.Fragment != "", len(raw) > 2048:
		return ErrURL
	case u.Scheme == "https", u.Scheme == "http" && c.Private:
		return nil
	}
	return ErrURL
}

// Answer is what a provider said.
type Answer struct {
	Status int
	Body   []byte
}

// Decode reads a JSON answer, whose unknown members are passed over.
func (a Answer) Decode(into any) error {
	if err := json.Unmarshal(a.Body, into); err != nil {
		return ErrAnswer
	}
	return nil
}

// Form posts a form.
func (c Client) Form(ctx context.Context, to string, header http.Header, form url.Values) (Answer, error) {
	return c.Do(ctx, http.MethodPost, to, with(header, "application/x-www-form-urlencoded"), []byte(form.Encode()))
}

// JSON sends a document, or none if in is nil.
func (c Client) JSON(ctx context.Context, method, to string, header http.Header, in any) (Answer, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in, json.Deterministic(true)); err != nil {
			return Answer{}, err
		}
	}
	return c.Do(ctx, method, to, with(header, "application/json"), body)
}

func with(header http.Header, contentType string) http.Header {
	h := header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Content-Type", contentType)
	h.Set("Accept", first(h.Get("Accept"), "application/json"))
	return h
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// Do makes one request. A status is no error: see Good.
func (c Client) Do(ctx context.Context, method, to string, header http.Header, body []byte) (Answer, error) {
	if err := c.Check(to); err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return Answer{}, ErrURL
	}
	req.Header = header
	resp, err := c.transport().RoundTrip(req)
	if err != nil {
		if errors.Is(err, dial.ErrAddress) {
			return Answer{}, ErrAddress
		}
		return Answer{}, ErrReach // its own words may show the URL
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, ErrReach
	case len(b) > maxAnswer:
		return Answer{}, ErrAnswer
	}
	return Answer{resp.StatusCode, b}, nil
}

// Good returns an error unless the status says that it worked. Which statuses
// mean that asking again cannot help, it says by its kind.
func (a Answer) Good() error {
	switch {
	case a.Status >= 200 && a.Status < 300:
		return nil
	case a.Status == http.StatusBadRequest, a.Status == http.StatusUnauthorized, a.Status == http.StatusForbidden:
		return ErrStatus.Say("the provider refused with status %d: check the credential and the settings", a.Status)
	}
	return ErrStatus.Say("the provider answered with status %d", a.Status)
}

// transport is of one request: credentials are made rarely, and nothing of one
// provider should be kept for another.
func (c Client) transport() *http.Transport {
	d := dial.Dialer{Private: c.Private, Within: patience}
	return &http.Transport{DialContext: d.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: patience,
		ForceAttemptHTTP2: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}
}
