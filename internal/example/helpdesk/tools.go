package helpdesk

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/mail"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const instructions = "The helpdesk of Hanse Trade: tickets, orders and mail to customers. Read a ticket before you answer it; close it when the answer is sent."

type (
	listTicketsIn struct {
		Status string `json:"status,omitempty" jsonschema:"open, closed, or empty for all"`
	}
	// ticketLine is a ticket in a list: enough to choose one.
	ticketLine struct {
		Number   string `json:"number"`
		Customer string `json:"customer"`
		Subject  string `json:"subject"`
		Order    string `json:"order"`
		Status   string `json:"status"`
	}
	listTicketsOut struct {
		Tickets []ticketLine `json:"tickets"`
	}
	ticketIn struct {
		Number string `json:"number" jsonschema:"ticket number such as T-1001"`
	}
	searchOrdersIn struct {
		Query string `json:"query" jsonschema:"part of a number, customer, e-mail address or item; empty for all"`
	}
	searchOrdersOut struct {
		Orders []Order `json:"orders"`
	}
	orderIn struct {
		Number string `json:"number" jsonschema:"order number such as O-20001"`
	}
	replyIn struct {
		Number string `json:"number" jsonschema:"ticket number"`
		Body   string `json:"body" jsonschema:"the text to the customer"`
	}
	closeIn struct {
		Number     string `json:"number" jsonschema:"ticket number"`
		Resolution string `json:"resolution" jsonschema:"what was done, in one line"`
	}
	emailIn struct {
		To      string `json:"to" jsonschema:"address of the recipient"`
		Subject string `json:"subject" jsonschema:"subject line"`
		Body    string `json:"body" jsonschema:"text of the message"`
	}
	done struct {
		Number string `json:"number"`
		Status string `json:"status"`
	}
	sent struct {
		ID     int64  `json:"id"`
		To     string `json:"to"`
		Status string `json:"status"`
	}
)

func (s *Server) mcpServer() *mcp.Server {
	m := mcp.NewServer(&mcp.Implementation{Name: "helpdesk", Title: "Hanse Trade helpdesk", Version: "1.0.0"},
		&mcp.ServerOptions{Instructions: instructions, Logger: s.log, Capabilities: &mcp.ServerCapabilities{}})
	reads, writes := annotations(true, false), annotations(false, false)
	mcp.AddTool(m, tool("list_tickets", "List tickets", "List the tickets, oldest first.", reads), s.listTickets)
	mcp.AddTool(m, tool("get_ticket", "Read a ticket", "Read one ticket with the customer's text.", reads), s.getTicket)
	mcp.AddTool(m, tool("search_orders", "Search orders", "Find orders by number, customer, e-mail address or item.", reads), s.searchOrders)
	mcp.AddTool(m, tool("get_order", "Read an order", "Read one order.", reads), s.getOrder)
	mcp.AddTool(m, tool("draft_reply", "Draft a reply", "Save a draft answer to a ticket. Nothing is sent.", writes), s.draftReply)
	mcp.AddTool(m, tool("send_reply", "Send a reply", "Send an answer to the customer of a ticket.", annotations(false, true)), s.sendReply)
	mcp.AddTool(m, tool("close_ticket", "Close a ticket", "Close a ticket that has been answered.", writes), s.closeTicket)
	mcp.AddTool(m, tool("send_email", "Send an e-mail", "Send an e-mail to any address.", annotations(false, true)), s.sendEmail)
	s.addResources(m)
	return m
}

func tool(name, title, description string, a *mcp.ToolAnnotations) *mcp.Tool {
	return &mcp.Tool{Name: name, Title: title, Description: description, Annotations: a}
}

// annotations describe a tool: whether it only reads, and whether it reaches
// people outside, which cannot be taken back.
func annotations(readOnly, outside bool) *mcp.ToolAnnotations {
	return &mcp.ToolAnnotations{ReadOnlyHint: readOnly, DestructiveHint: &outside, OpenWorldHint: &outside, IdempotentHint: readOnly}
}

func (s *Server) listTickets(ctx context.Context, _ *mcp.CallToolRequest, in listTicketsIn) (*mcp.CallToolResult, listTicketsOut, error) {
	out := listTicketsOut{Tickets: []ticketLine{}}
	if in.Status != "" && in.Status != "open" && in.Status != "closed" {
		return nil, out, fmt.Errorf("status must be open, closed or empty, not %q", in.Status)
	}
	all, err := s.store.tickets(ctx, in.Status)
	for _, t := range all {
		out.Tickets = append(out.Tickets, ticketLine{Number: t.Number, Customer: t.Customer, Subject: t.Subject, Order: t.Order, Status: t.Status})
	}
	return nil, out, err
}

func (s *Server) getTicket(ctx context.Context, _ *mcp.CallToolRequest, in ticketIn) (*mcp.CallToolResult, Ticket, error) {
	t, err := s.store.ticket(ctx, in.Number)
	return nil, t, err
}

func (s *Server) searchOrders(ctx context.Context, _ *mcp.CallToolRequest, in searchOrdersIn) (*mcp.CallToolResult, searchOrdersOut, error) {
	found, err := s.store.orders(ctx, in.Query)
	return nil, searchOrdersOut{Orders: found}, err
}

func (s *Server) getOrder(ctx context.Context, _ *mcp.CallToolRequest, in orderIn) (*mcp.CallToolResult, Order, error) {
	o, err := s.store.order(ctx, in.Number)
	return nil, o, err
}

func (s *Server) draftReply(ctx context.Context, _ *mcp.CallToolRequest, in replyIn) (*mcp.CallToolResult, done, error) {
	if strings.TrimSpace(in.Body) == "" {
		return nil, done{}, errors.New("the draft has no text")
	}
	return nil, done{Number: in.Number, Status: "drafted"}, s.store.draft(ctx, in.Number, in.Body)
}

func (s *Server) sendReply(ctx context.Context, _ *mcp.CallToolRequest, in replyIn) (*mcp.CallToolResult, sent, error) {
	t, err := s.store.ticket(ctx, in.Number)
	switch {
	case err != nil:
		return nil, sent{}, err
	case t.Status != "open":
		return nil, sent{}, errClosed
	case strings.TrimSpace(in.Body) == "":
		return nil, sent{}, errors.New("the reply has no text")
	}
	e, err := s.store.send(ctx, Email{To: t.Email, Subject: "Re: " + t.Subject, Body: in.Body, Ticket: t.Number})
	return nil, sent{ID: e.ID, To: e.To, Status: "sent"}, err
}

func (s *Server) closeTicket(ctx context.Context, _ *mcp.CallToolRequest, in closeIn) (*mcp.CallToolResult, done, error) {
	return nil, done{Number: in.Number, Status: "closed"}, s.store.close(ctx, in.Number, in.Resolution)
}

func (s *Server) sendEmail(ctx context.Context, _ *mcp.CallToolRequest, in emailIn) (*mcp.CallToolResult, sent, error) {
	to, err := mail.ParseAddress(in.To)
	if err != nil || to.Address != in.To {
		return nil, sent{}, fmt.Errorf("%q is not an e-mail address", in.To)
	}
	e, err := s.store.send(ctx, Email{To: to.Address, Subject: in.Subject, Body: in.Body})
	return nil, sent{ID: e.ID, To: e.To, Status: "sent"}, err
}

const refundRules = `# Refunds

1. Returned goods are refunded within five working days after they arrived.
2. Damaged goods are replaced first, refunded when the customer prefers it.
3. Above 200.00 EUR the support lead decides.
`

// addResources offers the rules of the house, tickets as documents and a prompt
// for the tone of an answer.
func (s *Server) addResources(m *mcp.Server) {
	m.AddResource(&mcp.Resource{URI: "helpdesk://handbook/refunds", Name: "refund-rules", Title: "Rules for refunds", MIMEType: "text/markdown"},
		func(_ context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			return document(req.Params.URI, "text/markdown", refundRules), nil
		})
	m.AddResourceTemplate(&mcp.ResourceTemplate{URITemplate: "helpdesk://tickets/{number}", Name: "ticket", Title: "A ticket", MIMEType: "application/json"},
		func(ctx context.Context, req *mcp.ReadResourceRequest) (*mcp.ReadResourceResult, error) {
			t, err := s.store.ticket(ctx, strings.TrimPrefix(req.Params.URI, "helpdesk://tickets/"))
			if errors.Is(err, errNoTicket) {
				return nil, mcp.ResourceNotFoundError(req.Params.URI)
			}
			if err != nil {
				return nil, err
			}
			text, err := json.Marshal(t)
			return document(req.Params.URI, "application/json", string(text)), err
		})
	m.AddPrompt(&mcp.Prompt{Name: "reply_tone", Title: "Tone of a reply", Description: "How to write to a customer",
		Arguments: []*mcp.PromptArgument{{Name: "customer", Description: "name of the customer", Required: true}}},
		func(_ context.Context, req *mcp.GetPromptRequest) (*mcp.GetPromptResult, error) {
			text := "Write to " + req.Params.Arguments["customer"] + " politely, in short sentences, and name the next step and its date."
			return &mcp.GetPromptResult{Messages: []*mcp.PromptMessage{{Role: "user", Content: &mcp.TextContent{Text: text}}}}, nil
		})
}

func document(uri, kind, text string) *mcp.ReadResourceResult {
	return &mcp.ReadResourceResult{Contents: []*mcp.ResourceContents{{URI: uri, MIMEType: kind, Text: text}}}
}
