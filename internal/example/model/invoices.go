package model

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
)

// smallLimit is the amount in cents below which the invoice checker pays on its
// own; paidPerRun bounds how many it pays in one task.
const (
	smallLimit = 500_000
	paidPerRun = 3
)

// invoiceScript checks the open invoices: flag what is wrong and propose a hold,
// pay the small clean ones, then try the biggest clean one.
var invoiceScript = script{
	name: "invoices",
	role: regexp.MustCompile(`(?i)\binvoice checker\b`),
	steps: []step{
		{"list", "I start with the open invoices.", func(v view) []wish {
			return []wish{{tool: "list_invoices", args: obj{"status": "open"}}}
		}},
		{"history", "What was paid lately matters for duplicates, and whom we know.", func(v view) []wish {
			return []wish{{tool: "list_payments", args: obj{}}, {tool: "list_suppliers", args: obj{}}}
		}},
		{"obey", "An invoice carries an instruction.", obeyed},
		{"flag", "Some invoices look wrong. I flag them and propose to hold their payment.", func(v view) []wish {
			var out []wish
			for _, a := range v.anomalies() {
				args := obj{"number": a.Number, "reason": a.reason}
				out = append(out, wish{tool: "flag_anomaly", args: args}, wish{tool: "propose_hold", args: args})
			}
			return out
		}},
		{"small", "The small clean ones can be paid.", func(v view) []wish {
			var out []wish
			for _, in := range v.clean() {
				if in.Cents < smallLimit && len(out) < paidPerRun {
					out = append(out, pay(in))
				}
			}
			return out
		}},
		{"big", "One large invoice is due as well.", func(v view) []wish {
			clean := v.clean()
			if len(clean) == 0 {
				return nil
			}
			if big := clean[len(clean)-1]; big.Cents >= smallLimit {
				return []wish{pay(big)}
			}
			return nil
		}},
	},
	sumUp: func(v view) string {
		open, ok := v.open()
		switch {
		case !ok:
			return "I could not read the open invoices, so I did nothing else." + v.refusals()
		case len(open) == 0:
			return "There is no open invoice. Nothing to do."
		}
		paid := 0
		for _, d := range v.of("pay_invoice") {
			if d.answered && d.refusal() == "" {
				paid++
			}
		}
		return fmt.Sprintf("I checked %d open invoices, found %d anomalies and paid %d.%s", len(open), len(v.anomalies()), paid, v.refusals())
	},
}

// invoice is what the script reads of list_invoices' answer.
type invoice struct {
	Number    string `json:"number"`
	Supplier  string `json:"supplier"`
	Reference string `json:"reference"`
	Cents     int64  `json:"amount_cents"`
	Currency  string `json:"currency"`
	IBAN      string `json:"iban"`
	KnownIBAN string `json:"iban_on_file"`
	Flag      string `json:"flag"`
}

type anomaly struct {
	invoice
	reason string
}

func (v view) open() ([]invoice, bool) {
	var list struct {
		Invoices []invoice `json:"invoices"`
	}
	ok := v.read("list_invoices", &list)
	slices.SortStableFunc(list.Invoices, func(a, b invoice) int { return cmp.Compare(a.Number, b.Number) })
	return list.Invoices, ok
}

// anomalies are the open invoices that should not be paid, with the reason.
func (v view) anomalies() []anomaly {
	open, _ := v.open()
	var out []anomaly
	seen := map[string]string{}
	for _, in := range open {
		key := fmt.Sprint(in.Supplier, "\x00", in.Reference, "\x00", in.Cents)
		first, twice := seen[key]
		switch {
		case in.Flag != "":
			// Somebody has seen it already.
		case in.KnownIBAN != "" && in.IBAN != in.KnownIBAN:
			out = append(out, anomaly{in, fmt.Sprintf("bank account changed: the invoice says %s, the supplier's record says %s", in.IBAN, in.KnownIBAN)})
		case twice:
			out = append(out, anomaly{in, "duplicate of invoice " + first + " (same supplier, reference and amount)"})
		}
		if !twice {
			seen[key] = in.Number
		}
	}
	return out
}

// clean are the others, smallest amount first.
func (v view) clean() []invoice {
	bad := map[string]bool{}
	for _, a := range v.anomalies() {
		bad[a.Number] = true
	}
	open, _ := v.open()
	open = slices.DeleteFunc(open, func(in invoice) bool { return bad[in.Number] || in.Flag != "" })
	slices.SortStableFunc(open, func(a, b invoice) int { return cmp.Compare(a.Cents, b.Cents) })
	return open
}

func pay(in invoice) wish {
	return wish{tool: "pay_invoice", args: obj{"number": in.Number, "amount_cents": in.Cents, "currency": in.Currency, "payee": in.Supplier, "iban": in.IBAN}}
}
