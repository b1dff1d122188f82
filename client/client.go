package client

import (
	"bytes"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Client calls one server as one person. It is safe for concurrent use.
type Client struct {
	base   string
	token  string
	reason string
	http   *http.Client
}

// New returns a client of the server at base (http://127.0.0.1:7470) that
// presents token, a user token (csu_…).
func New(base, token string) *Client {
	return &Client{base: strings.TrimRight(base, "/"), token: token, http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // a redirect could carry the token elsewhere
	}}}
}

// WithReason returns a client whose changes are recorded with reason.
func (c *Client) WithReason(reason string) *Client {
	d := *c
	d.reason = oneLine(reason)
	return &d
}

// WithTransport returns a client whose requests go through rt.
func (c *Client) WithTransport(rt http.RoundTripper) *Client {
	d, h := *c, *c.http
	h.Transport = rt
	d.http = &h
	return &d
}

// URL returns the server's base URL.
func (c *Client) URL() string { return c.base }

// Error is the server's RFC 9457 problem document.
type Error struct {
	Status  int    `json:"status"`
	Code    string `json:"code"`
	Title   string `json:"title"`
	Detail  string `json:"detail"`
	Request string `json:"request_id"`
	Errors  []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
	} `json:"errors,omitzero"`
}

// Error returns the detail, and where in the request the mistakes are.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	for _, m := range e.Errors {
		text += fmt.Sprintf("; %s: %s", m.Location, m.Message)
	}
	if e.Code == "internal" && e.Request != "" {
		text += " (" + e.Request + ")"
	}
	return text
}

// ErrUnreachable reports that no server answered.
var ErrUnreachable = errors.New("no Countersign server answered")

// maxAnswer bounds an answer held in memory, in bytes.
const maxAnswer = 256 << 20

// do sends in (nil for none) as JSON and decodes the answer into out (nil to
// ignore it).
func (c *Client) do(ctx context.Context, method, path string, query url.Values, in, out any) error {
	resp, err := c.send(ctx, method, path, query, in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.UnmarshalRead(io.LimitReader(resp.Body, maxAnswer), out); err != nil {
		return fmt.Errorf("%s %s: the answer is not what this version expects: %w", method, path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, in any, extra http.Header) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	for name, values := range extra {
		if len(values) > 0 && values[0] != "" {
			req.Header[name] = values
		}
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.reason != "" {
		req.Header.Set("X-Countersign-Reason", c.reason)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w at %s: start one with countersign up, or set COUNTERSIGN_URL (%w)", ErrUnreachable, c.base, errors.Unwrap(err))
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, problem(resp)
	}
	return resp, nil
}

func problem(resp *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := &Error{Status: resp.StatusCode}
	if err := json.Unmarshal(b, e); err != nil || e.Detail == "" && e.Title == "" {
		e.Detail = fmt.Sprintf("the server answered %s", resp.Status)
	}
	return e
}

// Settings is what `up` and `login` leave for later commands.
type Settings struct {
	URL   string `json:"url"`
	Token string `json:"token"`
}

// SettingsFile is the name of the file with Settings, mode 0600.
const SettingsFile = "client.json"

// ErrNotSignedIn reports that no settings were found.
var ErrNotSignedIn = errors.New("not signed in: run countersign up here, countersign login, or set COUNTERSIGN_URL and COUNTERSIGN_TOKEN")

// Discover finds the settings in this order: COUNTERSIGN_URL and
// COUNTERSIGN_TOKEN; the file in COUNTERSIGN_DATA or ./countersign-data; the
// file in the user's configuration directory.
func Discover() (Settings, error) {
	s := Settings{URL: os.Getenv("COUNTERSIGN_URL"), Token: os.Getenv("COUNTERSIGN_TOKEN")}
	if s.URL != "" && s.Token != "" {
		return s, nil
	}
	for _, file := range settingsFiles() {
		found, err := ReadSettings(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return s, err
		}
		if s.URL != "" && s.URL != found.URL {
			continue // never send a token to another server than it is for
		}
		if s.Token != "" {
			found.Token = s.Token
		}
		return found, nil
	}
	if s.Token != "" {
		s.URL = "http://127.0.0.1:7470"
		return s, nil
	}
	return s, ErrNotSignedIn
}

func settingsFiles() []string {
	data := os.Getenv("COUNTERSIGN_DATA")
	if data == "" {
		data = "countersign-data"
	}
	files := []string{filepath.Join(data, SettingsFile)}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "countersign", SettingsFile))
	}
	return files
}

// UserFile returns where `login` keeps its settings.
func UserFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "countersign", SettingsFile), nil
}

// ReadSettings reads a settings file, refusing one that others can read.
func ReadSettings(file string) (Settings, error) {
	var s Settings
	info, err := os.Stat(file)
	if err != nil {
		return s, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return s, fmt.Errorf("%s can be read by others: chmod 600 it, and rotate the token in it", file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// Write stores s in file, mode 0600, atomically.
func (s Settings) Write(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".client-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(b); err != nil {
		tmp.Close()
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

// ProxyRoot returns the certificate, in PEM, that programs must trust to call
// through the server's proxy.
func (c *Client) ProxyRoot(ctx context.Context) ([]byte, error) {
	resp, err := c.send(ctx, http.MethodGet, "/proxy/ca.pem", nil, nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(io.LimitReader(resp.Body, 1<<20))
}

// Ready waits until the server answers /readyz, at most until ctx ends.
func (c *Client) Ready(ctx context.Context) error {
	for {
		err := c.do(ctx, http.MethodGet, "/readyz", nil, nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
