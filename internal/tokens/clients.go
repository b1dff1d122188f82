package tokens

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json/v2"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/storage"
)

// The kinds of clients that people drive.
const (
	Registered = "registered" // by an administrator
	Metadata   = "metadata"   // its id is the URL of its metadata document
	Dynamic    = "dynamic"    // registered itself (RFC 7591)
)

const (
	maxRedirects  = 16
	maxDynamic    = 1000           // clients that registered themselves
	dynamicLife   = 24 * time.Hour // of one that nobody used
	documentFresh = 5 * time.Minute
	documentWrong = 30 * time.Second
	maxDocuments  = 256
)

// OAuthClient is a program that a person lets act as an agent on their behalf.
type OAuthClient struct {
	ID        string    `json:"id"`
	ClientID  string    `json:"client_id"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind" enum:"registered,metadata,dynamic"`
	Agent     string    `json:"agent,omitempty" doc:"the agent it acts as, for whoever consents; empty: one that the person answers for"`
	Redirects []string  `json:"redirect_uris"`
	Created   time.Time `json:"created,omitzero"`
}

// Host is what of the client's identity was checked: where its document is.
func (c OAuthClient) Host() string {
	if u, err := url.Parse(c.ClientID); err == nil && c.Kind != Dynamic {
		return u.Host
	}
	return ""
}

// redirects reports whether uri is one of the client's. The port of a loopback
// address is the client's to choose (RFC 8252 section 7.3).
func (c OAuthClient) redirects(uri string) bool {
	return slices.ContainsFunc(c.Redirects, func(r string) bool { return r == uri || loopback(r) != "" && loopback(r) == loopback(uri) })
}

// loopback returns an http URL of this machine without its port, "" for others.
func loopback(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" || u.User != nil {
		return ""
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return ""
	}
	u.Host = u.Hostname()
	return u.String()
}

var schemeForm = regexp.MustCompile(`^[a-z][a-z0-9+.-]{1,40}$`)

// browserSchemes are those with which a browser does something itself.
var browserSchemes = []string{"javascript", "data", "file", "vbscript", "about", "blob", "view-source", "ws", "wss", "ftp", "mailto"}

// checkRedirect refuses where a code may not be sent: plain http off this
// machine, what a browser would run, fragments.
func checkRedirect(raw string) error {
	u, err := url.Parse(raw)
	bad := err != nil || len(raw) > 2000 || !plain(raw) || u.Fragment != "" || strings.Contains(raw, "#") || u.User != nil || !schemeForm.MatchString(u.Scheme) || slices.Contains(browserSchemes, u.Scheme)
	switch {
	case bad:
	case u.Scheme == "https":
		bad = u.Host == ""
	case u.Scheme == "http":
		bad = loopback(raw) == ""
	default:
		bad = strings.ContainsAny(raw, " <>\"'")
	}
	if bad {
		return ErrMetadata.Say("redirect_uris: %.200q is not allowed: https, http on this machine, or an app's own scheme, without a fragment", raw)
	}
	return nil
}

func checkRedirects(uris []string) error {
	if len(uris) == 0 || len(uris) > maxRedirects {
		return ErrMetadata.Say("redirect_uris: between 1 and %d", maxRedirects)
	}
	for _, u := range uris {
		if err := checkRedirect(u); err != nil {
			return err
		}
	}
	return nil
}

// OAuthClient finds a client by its id: one that was registered, or the one
// whose metadata document the id is the URL of.
func (s *Service) OAuthClient(ctx context.Context, clientID string) (OAuthClient, error) {
	if clientID == "" || len(clientID) > 2000 {
		return OAuthClient{}, ErrClient.Say("client_id is missing")
	}
	found, err := readOAuthClients(ctx, s.db, clientID)
	if err != nil {
		return OAuthClient{}, err
	}
	if len(found) == 1 && len(found[0].Redirects) > 0 {
		return found[0], nil
	}
	c, err := s.document(ctx, clientID)
	if err == nil && len(found) == 1 {
		c.ID, c.Agent, c.Created = found[0].ID, found[0].Agent, found[0].Created
	}
	return c, err
}

// documents keeps client metadata documents for a while, refusals too.
type documents struct {
	mu sync.Mutex
	m  map[string]document
}

type document struct {
	client OAuthClient
	err    error
	until  time.Time
}

func newDocuments() *documents { return &documents{m: map[string]document{}} }

// document fetches a Client ID Metadata Document
// (draft-ietf-oauth-client-id-metadata-document).
func (s *Service) document(ctx context.Context, clientID string) (OAuthClient, error) {
	u, err := url.Parse(clientID)
	if err != nil || checkURL("client_id", clientID) != nil || u.Path == "" || u.Path == "/" || u.RawQuery != "" || strings.Contains(u.Path, "/.") {
		return OAuthClient{}, ErrClient.Say("the client is unknown; its id is neither registered nor the https URL of a metadata document")
	}
	now := s.now()
	s.clients.mu.Lock()
	d, ok := s.clients.m[clientID]
	s.clients.mu.Unlock()
	if ok && now.Before(d.until) {
		return d.client, d.err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	d = document{until: now.Add(documentFresh)}
	if d.client, d.err = s.readDocument(ctx, clientID); d.err != nil {
		d.until = now.Add(documentWrong)
	}
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	if len(s.clients.m) >= maxDocuments {
		clear(s.clients.m)
	}
	s.clients.m[clientID] = d
	return d.client, d.err
}

func (s *Service) readDocument(ctx context.Context, clientID string) (OAuthClient, error) {
	b, err := s.o.Fetcher.Fetch(ctx, clientID, Fetch{Private: s.o.PrivateClients, CA: s.o.ClientCA})
	if err != nil {
		return OAuthClient{}, ErrClient.Say("the client's metadata document could not be fetched from %s", clientID).With(err)
	}
	return readMetadata(clientID, b)
}

func readMetadata(clientID string, b []byte) (OAuthClient, error) {
	var doc metadata
	if err := json.Unmarshal(b, &doc); err != nil {
		return OAuthClient{}, ErrClient.Say("the client's metadata document is no JSON object").With(err)
	}
	if doc.ClientID != clientID {
		return OAuthClient{}, ErrClient.Say("the metadata document is that of another client")
	}
	return doc.client(clientID, Metadata)
}

// metadata is what we read of a client's metadata (RFC 7591 section 2).
type metadata struct {
	ClientID  string   `json:"client_id"`
	Name      string   `json:"client_name"`
	Redirects []string `json:"redirect_uris"`
	Auth      string   `json:"token_endpoint_auth_method"`
}

func (m metadata) client(clientID, kind string) (OAuthClient, error) {
	if m.Auth != "" && m.Auth != "none" {
		return OAuthClient{}, ErrMetadata.Say("token_endpoint_auth_method: clients that people drive are public: none, with PKCE")
	}
	if err := checkRedirects(m.Redirects); err != nil {
		return OAuthClient{}, err
	}
	name := cut(strings.TrimSpace(m.Name), 100)
	if name == "" || !plain(name) {
		name = "a program without a name"
	}
	return OAuthClient{ClientID: clientID, Name: name, Kind: kind, Redirects: m.Redirects}, nil
}

// Registration reports whether clients may register themselves.
func (s *Service) Registration() bool { return s.o.Registration }

// Register registers a client at its own request (RFC 7591), if that is on.
func (s *Service) Register(ctx context.Context, body []byte, remote string) (c OAuthClient, err error) {
	if !s.o.Registration {
		return c, ErrUnallowed.Say("clients do not register themselves here: use a client ID metadata document, or ask an administrator")
	}
	var m metadata
	if err := json.Unmarshal(body, &m); err != nil {
		return c, ErrMetadata.Say("this is no JSON object of client metadata")
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	if c, err = m.client(id.At(clientID, now), Dynamic); err != nil {
		return c, err
	}
	c.ID, c.Created = c.ClientID, now
	err = s.change(ctx, func(tx *audit.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM oauth_clients WHERE kind = $1 AND created < $2 AND NOT EXISTS (SELECT 1 FROM token_sessions t WHERE t.client_id = oauth_clients.client_id)`,
			Dynamic, storage.Micros(now.Add(-dynamicLife))); err != nil {
			return err
		}
		var n int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM oauth_clients WHERE kind = $1`, Dynamic).Scan(&n); err != nil {
			return err
		}
		if n >= maxDynamic {
			return ErrTooMany.Say("too many clients have registered themselves; an administrator can remove some")
		}
		if err := insertOAuthClient(ctx, tx, c); err != nil {
			return err
		}
		ev := event("oauth_client.created", audit.Actor{Kind: audit.KindAgent}, "registered itself", "oauth-client/"+c.ID, c)
		ev.Remote = remote
		tx.Record(ev)
		return nil
	})
	return c, err
}

func insertOAuthClient(ctx context.Context, tx *audit.Tx, c OAuthClient) error {
	_, err := tx.Exec(ctx, `INSERT INTO oauth_clients (client_id, id, name, kind, agent, redirect_uris, created) VALUES ($1, $2, $3, $4, NULLIF($5, ''), $6, $7)`,
		c.ClientID, c.ID, c.Name, c.Kind, c.Agent, marshal(c.Redirects), storage.Micros(c.Created))
	return err
}

// AddOAuthClient registers a client for whoever consents: it acts as agent. A
// client with a metadata document needs no redirect URIs. Needs a reason, since
// it lets every user of this server delegate to the agent.
func (s *Service) AddOAuthClient(ctx context.Context, by audit.Actor, reason string, c OAuthClient) (OAuthClient, error) {
	if err := checkReason(reason, true); err != nil {
		return c, err
	}
	if c.ClientID == "" || len(c.ClientID) > 500 || !plain(c.ClientID) || strings.ContainsAny(c.ClientID, " \"") {
		return c, ErrInvalid.Say("client_id: a name without spaces, or the URL of the client's metadata document")
	}
	if len(c.Redirects) > 0 || checkURL("client_id", c.ClientID) != nil {
		if err := checkRedirects(c.Redirects); err != nil {
			return c, ErrInvalid.Say("%s", err.Error())
		}
	}
	if len(c.Name) > 100 || !plain(c.Name) {
		return c, ErrInvalid.Say("name: at most 100 characters on one line")
	}
	if _, err := s.agent(c.Agent); err != nil {
		return c, ErrInvalid.Say("agent: %s", err.Error())
	}
	if c.Name == "" {
		c.Name = c.ClientID
	}
	now := s.now().UTC().Truncate(time.Microsecond)
	c.ID, c.Kind, c.Created = id.At(clientID, now), Registered, now
	err := s.change(ctx, func(tx *audit.Tx) error {
		if err := insertOAuthClient(ctx, tx, c); err != nil {
			return err
		}
		tx.Record(event("oauth_client.created", by, reason, "oauth-client/"+c.ID, c))
		return nil
	})
	return c, err
}

// OAuthClients lists the clients that are registered, by anyone.
func (s *Service) OAuthClients(ctx context.Context) ([]OAuthClient, error) {
	return readOAuthClients(ctx, s.db, "")
}

// RemoveOAuthClient removes a client and ends every consent given to it.
func (s *Service) RemoveOAuthClient(ctx context.Context, by audit.Actor, reason, which string) error {
	if err := checkReason(reason, false); err != nil {
		return err
	}
	return s.announced(ctx, func(tx *audit.Tx) error {
		all, err := readOAuthClients(ctx, tx, "")
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(c OAuthClient) bool { return c.ID == which || c.ClientID == which })
		if i < 0 {
			return ErrNotFound.Say("there is no client %q", cut(which, 200))
		}
		c := all[i]
		sessions, err := readSessions(ctx, tx, sessionFilter{client: c.ClientID})
		if err != nil {
			return err
		}
		for _, x := range sessions {
			if err := s.endSessionTx(ctx, tx, by, reason, x); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `DELETE FROM oauth_clients WHERE id = $1`, c.ID); err != nil {
			return err
		}
		tx.Record(event("oauth_client.deleted", by, reason, "oauth-client/"+c.ID, c))
		return nil
	})
}

func readOAuthClients(ctx context.Context, q querier, clientID string) ([]OAuthClient, error) {
	return collect(ctx, q, func(rows *sql.Rows) (c OAuthClient, err error) {
		var uris string
		var created int64
		if err = rows.Scan(&c.ClientID, &c.ID, &c.Name, &c.Kind, &c.Agent, &uris, &created); err != nil {
			return c, err
		}
		c.Created = storage.Time(created)
		return c, json.Unmarshal([]byte(uris), &c.Redirects)
	}, `SELECT client_id, id, name, kind, COALESCE(agent, ''), redirect_uris, created FROM oauth_clients WHERE ($1 = '' OR client_id = $1) ORDER BY created, id`, clientID)
}

// digest is what is stored of a random value that is shown once.
func digest(value string) string {
	sum := sha256.Sum256([]byte(value))
	return hexOf(sum[:])
}
