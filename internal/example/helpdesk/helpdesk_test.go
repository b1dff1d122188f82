package helpdesk_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/countersign/countersign/internal/example/helpdesk"
)

const token = "desk-token-0001"

type bearer string

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(b))
	return http.DefaultTransport.RoundTrip(r)
}

func open(t *testing.T, opts helpdesk.Options) (*helpdesk.Server, string) {
	t.Helper()
	opts.Token = token
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := helpdesk.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, h.URL + helpdesk.Path
}

func connect(t *testing.T, endpoint, version string) *mcp.ClientSession {
	t.Helper()
	session, err := mcp.NewClient(&mcp.Implementation{Name: "test"}, nil).Connect(t.Context(),
		&mcp.StreamableClientTransport{Endpoint: endpoint, HTTPClient: &http.Client{Transport: bearer(token)}, DisableStandaloneSSE: true},
		&mcp.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

// call returns the structured result, or the text of the error.
func call(t *testing.T, s *mcp.ClientSession, tool string, args map[string]any) (map[string]any, string) {
	t.Helper()
	r, err := s.CallTool(context.Background(), &mcp.CallToolParams{Name: tool, Arguments: args})
	if err != nil {
		return nil, err.Error()
	}
	if r.IsError {
		return nil, r.Content[0].(*mcp.TextContent).Text
	}
	return r.StructuredContent.(map[string]any), ""
}

func TestBothErasAndBothModes(t *testing.T) {
	for _, sessions := range []bool{false, true} {
		_, endpoint := open(t, helpdesk.Options{Sessions: sessions})
		for _, version := range []string{"", "2025-11-25", "2025-06-18"} {
			s := connect(t, endpoint, version)
			list, problem := call(t, s, "list_tickets", map[string]any{"status": "open"})
			if problem != "" || len(list["tickets"].([]any)) != 11 {
				t.Errorf("sessions=%v version=%q: %s %v", sessions, version, problem, list)
			}
		}
	}
}

func TestTheWayOfATicket(t *testing.T) {
	desk, endpoint := open(t, helpdesk.Options{})
	s := connect(t, endpoint, "")
	ticket, problem := call(t, s, "get_ticket", map[string]any{"number": "T-1002"})
	if problem != "" || ticket["order"] != "O-20002" || ticket["email"] != "ana.costa@mail.example" {
		t.Fatalf("%s %v", problem, ticket)
	}
	steps := []struct {
		tool string
		args map[string]any
		want string // part of the error; empty means it works
	}{
		{"draft_reply", map[string]any{"number": "T-1002", "body": " "}, "no text"},
		{"draft_reply", map[string]any{"number": "T-1002", "body": "Dear Ana"}, ""},
		{"send_reply", map[string]any{"number": "T-1002", "body": "Dear Ana"}, ""},
		{"send_reply", map[string]any{"number": "T-1002", "body": "x", "to": "attacker@evil.example"}, "additional"},
		{"close_ticket", map[string]any{"number": "T-1002", "resolution": "refunded"}, ""},
		{"close_ticket", map[string]any{"number": "T-1002", "resolution": "again"}, "closed already"},
		{"send_reply", map[string]any{"number": "T-1002", "body": "one more"}, "closed already"},
		{"get_ticket", map[string]any{"number": "T-1' OR '1'='1"}, "no ticket"},
		{"get_order", map[string]any{"number": "O-1"}, "no order"},
		{"list_tickets", map[string]any{"status": "lost"}, "status must be"},
		{"send_email", map[string]any{"to": "no address", "subject": "s", "body": "b"}, "not an e-mail address"},
		{"send_email", map[string]any{"to": "x@y.example\r\nBcc: z@y.example", "subject": "s", "body": "b"}, "not an e-mail address"},
		{"send_email", map[string]any{"to": "anyone@evil.example", "subject": "s", "body": "b"}, ""},
		{"no_such_tool", map[string]any{}, "unknown tool"},
	}
	for _, st := range steps {
		_, problem := call(t, s, st.tool, st.args)
		if (st.want == "") != (problem == "") || !strings.Contains(problem, st.want) {
			t.Errorf("%s %v: %q, want %q", st.tool, st.args, problem, st.want)
		}
	}
	mails, err := desk.Outbox(t.Context())
	if err != nil || len(mails) != 2 || mails[0].To != "ana.costa@mail.example" || mails[0].Ticket != "T-1002" || mails[1].To != "anyone@evil.example" {
		t.Errorf("%v %+v", err, mails)
	}
}

func TestSearchTreatsItsQueryAsText(t *testing.T) {
	_, endpoint := open(t, helpdesk.Options{})
	s := connect(t, endpoint, "")
	for query, want := range map[string]int{"": 30, "eva.novak@": 3, "%": 0, "_": 0, `\`: 0, "o-2000": 9} {
		found, problem := call(t, s, "search_orders", map[string]any{"query": query})
		if problem != "" || len(found["orders"].([]any)) != want {
			t.Errorf("%q: %s, %d orders, want %d", query, problem, len(found["orders"].([]any)), want)
		}
	}
}

func TestResourcesAndPrompt(t *testing.T) {
	_, endpoint := open(t, helpdesk.Options{})
	s := connect(t, endpoint, "")
	rules, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "helpdesk://handbook/refunds"})
	if err != nil || !strings.Contains(rules.Contents[0].Text, "five working days") {
		t.Errorf("%v %+v", err, rules)
	}
	ticket, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "helpdesk://tickets/" + helpdesk.PoisonedTicket})
	if err != nil || !strings.Contains(ticket.Contents[0].Text, "attacker@evil.example") {
		t.Errorf("%v %+v", err, ticket)
	}
	if _, err := s.ReadResource(t.Context(), &mcp.ReadResourceParams{URI: "helpdesk://tickets/T-0"}); err == nil {
		t.Error("a ticket that does not exist was read")
	}
	prompt, err := s.GetPrompt(t.Context(), &mcp.GetPromptParams{Name: "reply_tone", Arguments: map[string]string{"customer": "Ana"}})
	if err != nil || !strings.Contains(prompt.Messages[0].Content.(*mcp.TextContent).Text, "Ana") {
		t.Errorf("%v %+v", err, prompt)
	}
}

func TestTheTokenIsDemanded(t *testing.T) {
	_, endpoint := open(t, helpdesk.Options{})
	for _, header := range []string{"", "Bearer csk_of_the_agent", "Basic " + token, "Bearer"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, endpoint, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", header)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %s", header, resp.Status)
		}
	}
	if _, err := helpdesk.New(t.Context(), helpdesk.Options{Dir: t.TempDir()}); !errors.Is(err, helpdesk.ErrNoToken) {
		t.Error(err)
	}
}

// Two that start together on one directory seed it once, and what was written
// is there at the next start.
func TestStartingTwice(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			s, err := helpdesk.New(t.Context(), helpdesk.Options{Dir: dir, Token: token})
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
	_, first := open(t, helpdesk.Options{Dir: dir})
	if _, problem := call(t, connect(t, first, ""), "close_ticket", map[string]any{"number": "T-1001", "resolution": "r"}); problem != "" {
		t.Fatal(problem)
	}
	_, second := open(t, helpdesk.Options{Dir: dir})
	list, _ := call(t, connect(t, second, ""), "list_tickets", map[string]any{})
	open, _ := call(t, connect(t, second, ""), "list_tickets", map[string]any{"status": "open"})
	if len(list["tickets"].([]any)) != 12 || len(open["tickets"].([]any)) != 10 {
		t.Errorf("%d tickets, %d open", len(list["tickets"].([]any)), len(open["tickets"].([]any)))
	}
}

// Business goes on: new tickets come in until enough are open, written like
// earlier ones, the poisoned one included now and then.
func TestArrivals(t *testing.T) {
	desk, endpoint := open(t, helpdesk.Options{})
	s := connect(t, endpoint, "")
	poisoned := 0
	for range 25 {
		if err := desk.Arrive(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
		list, _ := call(t, s, "list_tickets", map[string]any{"status": "open"})
		tickets := list["tickets"].([]any)
		if len(tickets) == 0 {
			t.Fatal("no work came in")
		}
		first := tickets[0].(map[string]any)
		if number := first["number"].(string); number > "T-1012" && first["subject"] == "Delivery date of my order" {
			poisoned++
		}
		if _, problem := call(t, s, "close_ticket", map[string]any{"number": first["number"], "resolution": "done"}); problem != "" {
			t.Fatal(problem)
		}
	}
	if poisoned == 0 {
		t.Error("the injection never came back")
	}
	for range 5 {
		if err := desk.Arrive(t.Context(), 3); err != nil {
			t.Fatal(err)
		}
	}
	list, _ := call(t, s, "list_tickets", map[string]any{"status": "open"})
	if n := len(list["tickets"].([]any)); n != 3 {
		t.Errorf("%d tickets are open, the limit is 3", n)
	}
}
