package channels

import (
	"context"
	"crypto/rand"
	"net/http"
	"time"

	"github.com/countersign/countersign/internal/approvals"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/id"
	"github.com/countersign/countersign/internal/rest"
)

// Row is a channel with how it does.
type Row struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Spec    Spec      `json:"spec"`
	Waiting int64     `json:"waiting" doc:"messages that it has not taken yet"`
	Dead    int64     `json:"dead" doc:"messages that it never took"`
	Error   string    `json:"error,omitempty" doc:"why it did not take the last one that it did not"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Tested is the result of a test.
type Tested struct {
	ID    string `json:"id"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
}

// Linking is a code to be said in the chat.
type Linking struct {
	ID    string    `json:"id"`
	Code  string    `json:"code"`
	Until time.Time `json:"until"`
	Say   string    `json:"say" doc:"what to write in the chat"`
}

type byName struct {
	Name string `path:"name" maxLength:"64"`
}

type putRequest struct {
	Name string `path:"name" maxLength:"64"`
	Body Spec
}

type slackRequest struct {
	Name      string `path:"name" maxLength:"64"`
	Timestamp string `header:"X-Slack-Request-Timestamp" maxLength:"32"`
	Signature string `header:"X-Slack-Signature" maxLength:"128"`
	RawBody   []byte `contentType:"application/x-www-form-urlencoded"`
}

// Routes declares the room's operations.
func (s *Service) Routes(api *rest.API) {
	op := func(method, path, summary string, need rest.Need) rest.Op {
		return rest.Op{Method: method, Path: "/api/v1/channels" + path, Summary: summary, Tag: "channels", Need: need}
	}
	rest.Handle(api, op(http.MethodGet, "", "List channels", rest.Read), s.httpList)
	rest.Handle(api, op(http.MethodGet, "/{name}", "Show a channel", rest.Read), s.httpGet)
	rest.Handle(api, op(http.MethodPut, "/{name}", "Add or change a channel", rest.Write), s.httpPut)
	rest.Handle(api, op(http.MethodDelete, "/{name}", "Remove a channel", rest.Write), s.httpDelete)
	rest.Handle(api, op(http.MethodPost, "/{name}/test", "Send a test message through a channel", rest.Write), s.httpTest)
	rest.Handle(api, op(http.MethodPost, "/{name}/link", "Get a code that links your account in the channel's chat to you", rest.Self), s.httpLink)
	rest.Handle(api, op(http.MethodDelete, "/{name}/link", "End the links of accounts in the channel's chat to you", rest.Self), s.httpUnlink)
	rest.Handle(api, op(http.MethodPost, "/{name}/slack", "Take what Slack sends, signed by it", rest.Public), s.httpSlack)
}

func (s *Service) httpList(ctx context.Context, _ rest.Caller, _ *struct{}) (*[]Row, error) {
	n, err := countsOf(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	out := []Row{}
	for _, c := range s.Channels() {
		out = append(out, row(c, n[c.ID]))
	}
	return &out, nil
}

func row(c Channel, n counts) Row {
	return Row{ID: c.ID, Name: c.Name, Spec: c.Spec, Waiting: n.Waiting, Dead: n.Dead, Error: n.Error, Created: c.Created, Updated: c.Updated}
}

func (s *Service) httpGet(ctx context.Context, _ rest.Caller, r *byName) (*Row, error) {
	c, ok := s.Channel(r.Name)
	if !ok {
		return nil, ErrNotFound
	}
	n, err := countsOf(ctx, s.DB)
	if err != nil {
		return nil, err
	}
	out := row(c, n[c.ID])
	return &out, nil
}

func (s *Service) httpPut(ctx context.Context, c rest.Caller, r *putRequest) (*Row, error) {
	if _, err := s.Put(ctx, audit.Person(c.ID, c.Name), c.Reason, Channel{Name: r.Name, Spec: r.Body}); err != nil {
		return nil, err
	}
	return s.httpGet(ctx, c, &byName{r.Name})
}

func (s *Service) httpDelete(ctx context.Context, c rest.Caller, r *byName) (*rest.None, error) {
	return nil, s.Delete(ctx, audit.Person(c.ID, c.Name), c.Reason, r.Name)
}

func (s *Service) httpTest(ctx context.Context, c rest.Caller, r *byName) (*Tested, error) {
	return s.Test(ctx, c.Name, r.Name)
}

// Test sends one message at once and says how that went. A notice to persons
// goes to who tests.
func (s *Service) Test(ctx context.Context, by, channel string) (*Tested, error) {
	c, ok := s.Channel(channel)
	if !ok {
		return nil, ErrNotFound
	}
	d := delivery{ID: id.New(deliveryID), Channel: c.ID, What: whatTest, News: news{By: by}, Created: s.Now(), Attempts: 1}
	if u, ok := s.Identity.User(by); ok && c.People && u.Email != "" {
		d.News.To = []string{u.Email}
	}
	_, err := s.try(ctx, c, d)
	out := &Tested{ID: d.ID, OK: err == nil}
	if err != nil {
		out.Error = fault.Public(err).Message
		return out, nil
	}
	return out, s.Log.Change(ctx, func(tx *audit.Tx) error {
		return s.Findings.CloseObjectTx(ctx, tx, audit.System, "channel/"+c.Name, "a test message was taken", ruleDead)
	})
}

func (s *Service) httpLink(ctx context.Context, c rest.Caller, r *byName) (*Linking, error) {
	code, until, err := s.LinkCode(ctx, approvals.Person{ID: c.ID, Name: c.Name}, r.Name)
	if err != nil {
		return nil, err
	}
	return &Linking{ID: r.Name, Code: code, Until: until, Say: "/countersign link " + code}, nil
}

func newCode() string { return rand.Text() }

func (s *Service) httpUnlink(ctx context.Context, c rest.Caller, r *byName) (*rest.None, error) {
	return nil, s.Unlink(ctx, approvals.Person{ID: c.ID, Name: c.Name}, r.Name)
}

func (s *Service) httpSlack(ctx context.Context, c rest.Caller, r *slackRequest) (*map[string]any, error) {
	out, err := s.FromSlack(ctx, r.Name, r.Timestamp, r.Signature, c.Remote, r.RawBody)
	if out == nil {
		out = map[string]any{}
	}
	return &out, err
}
