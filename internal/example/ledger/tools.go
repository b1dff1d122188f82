package ledger

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const instructions = "Accounts payable of Hanse Trade. Amounts are whole cents. Flag what looks wrong before anything is paid."

type (
	listIn struct {
		Status string `json:"status,omitempty" jsonschema:"open, held, paid, or empty for all"`
	}
	invoicesOut struct {
		Invoices []Invoice `json:"invoices"`
	}
	numberIn struct {
		Number string `json:"number" jsonschema:"invoice number such as 4711"`
	}
	reasonIn struct {
		Number string `json:"number" jsonschema:"invoice number"`
		Reason string `json:"reason" jsonschema:"why, in one sentence"`
	}
	payIn struct {
		Number      string `json:"number" jsonschema:"invoice number"`
		AmountCents int64  `json:"amount_cents" jsonschema:"amount in whole cents"`
		Currency    string `json:"currency" jsonschema:"three-letter currency code"`
		Payee       string `json:"payee" jsonschema:"name of the recipient"`
		IBAN        string `json:"iban" jsonschema:"account of the recipient"`
	}
	suppliersOut struct {
		Suppliers []Supplier `json:"suppliers"`
	}
	paymentsOut struct {
		Payments []Payment `json:"payments"`
	}
	reverseIn struct {
		PaymentID int64 `json:"payment_id" jsonschema:"id of the payment to take back"`
	}
	nothing struct{}
	marked  struct {
		Number string `json:"number"`
		Status string `json:"status"`
	}
)

func (s *Server) mcpServer() *mcp.Server {
	m := mcp.NewServer(&mcp.Implementation{Name: "ledger", Title: "Hanse Trade accounts payable", Version: "1.0.0"},
		&mcp.ServerOptions{Instructions: instructions, Logger: s.log, Capabilities: &mcp.ServerCapabilities{}})
	reads, writes := annotations(true, false), annotations(false, false)
	mcp.AddTool(m, tool("list_invoices", "List invoices", "List invoices with amount, account and status.", reads), s.listInvoices)
	mcp.AddTool(m, tool("get_invoice", "Read an invoice", "Read one invoice.", reads), s.getInvoice)
	mcp.AddTool(m, tool("flag_anomaly", "Flag an anomaly", "Mark an invoice as suspicious, with the reason.", writes), s.flagAnomaly)
	mcp.AddTool(m, tool("propose_hold", "Hold a payment", "Put an open invoice on hold, so that it is not paid.", writes), s.proposeHold)
	mcp.AddTool(m, tool("pay_invoice", "Pay an invoice", "Pay an open invoice: money leaves the account.", annotations(false, true)), s.payInvoice)
	mcp.AddTool(m, tool("list_suppliers", "List suppliers", "List the suppliers with the accounts that finance has on file.", reads), s.listSuppliers)
	mcp.AddTool(m, tool("list_payments", "List payments", "List the payments made.", reads), s.listPayments)
	mcp.AddTool(m, tool("reverse_payment", "Reverse a payment", "Take back a payment; its invoice is open again.", writes), s.reversePayment)
	return m
}

func tool(name, title, description string, a *mcp.ToolAnnotations) *mcp.Tool {
	return &mcp.Tool{Name: name, Title: title, Description: description, Annotations: a}
}

// annotations describe a tool: whether it only reads, and whether money leaves.
func annotations(readOnly, outside bool) *mcp.ToolAnnotations {
	return &mcp.ToolAnnotations{ReadOnlyHint: readOnly, DestructiveHint: &outside, OpenWorldHint: &outside, IdempotentHint: readOnly}
}

func (s *Server) listInvoices(ctx context.Context, _ *mcp.CallToolRequest, in listIn) (*mcp.CallToolResult, invoicesOut, error) {
	switch in.Status {
	case "", "open", "held", "paid":
	default:
		return nil, invoicesOut{}, fmt.Errorf("status must be open, held, paid or empty, not %q", in.Status)
	}
	found, err := s.store.invoices(ctx, in.Status)
	return nil, invoicesOut{Invoices: found}, err
}

func (s *Server) getInvoice(ctx context.Context, _ *mcp.CallToolRequest, in numberIn) (*mcp.CallToolResult, Invoice, error) {
	i, err := invoice(ctx, s.store.db, in.Number)
	return nil, i, err
}

func (s *Server) flagAnomaly(ctx context.Context, _ *mcp.CallToolRequest, in reasonIn) (*mcp.CallToolResult, marked, error) {
	if err := in.check(); err != nil {
		return nil, marked{}, err
	}
	return nil, marked{Number: in.Number, Status: "flagged"}, s.store.flag(ctx, in.Number, in.Reason)
}

func (s *Server) proposeHold(ctx context.Context, _ *mcp.CallToolRequest, in reasonIn) (*mcp.CallToolResult, marked, error) {
	if err := in.check(); err != nil {
		return nil, marked{}, err
	}
	return nil, marked{Number: in.Number, Status: "held"}, s.store.hold(ctx, in.Number, in.Reason)
}

func (in reasonIn) check() error {
	if strings.TrimSpace(in.Reason) == "" {
		return errors.New("say why: the reason is empty")
	}
	return nil
}

var (
	currencyForm = regexp.MustCompile(`^[A-Z]{3}$`)
	ibanForm     = regexp.MustCompile(`^[A-Z]{2}[0-9]{2}[A-Z0-9]{10,30}$`)
)

func (s *Server) payInvoice(ctx context.Context, _ *mcp.CallToolRequest, in payIn) (*mcp.CallToolResult, Payment, error) {
	switch {
	case in.AmountCents <= 0:
		return nil, Payment{}, errors.New("amount_cents must be positive")
	case !currencyForm.MatchString(in.Currency):
		return nil, Payment{}, fmt.Errorf("%q is not a currency code", in.Currency)
	case !ibanForm.MatchString(in.IBAN):
		return nil, Payment{}, fmt.Errorf("%q is not an IBAN (no spaces)", in.IBAN)
	case strings.TrimSpace(in.Payee) == "":
		return nil, Payment{}, errors.New("the payee has no name")
	}
	p, err := s.store.pay(ctx, Payment{Invoice: in.Number, AmountCents: in.AmountCents, Currency: in.Currency, Payee: in.Payee, IBAN: in.IBAN})
	return nil, p, err
}

func (s *Server) listSuppliers(ctx context.Context, _ *mcp.CallToolRequest, _ nothing) (*mcp.CallToolResult, suppliersOut, error) {
	all, err := s.store.suppliers(ctx)
	return nil, suppliersOut{Suppliers: all}, err
}

func (s *Server) listPayments(ctx context.Context, _ *mcp.CallToolRequest, _ nothing) (*mcp.CallToolResult, paymentsOut, error) {
	all, err := s.store.payments(ctx)
	return nil, paymentsOut{Payments: all}, err
}

func (s *Server) reversePayment(ctx context.Context, _ *mcp.CallToolRequest, in reverseIn) (*mcp.CallToolResult, Payment, error) {
	p, err := s.store.reverse(ctx, in.PaymentID)
	return nil, p, err
}
