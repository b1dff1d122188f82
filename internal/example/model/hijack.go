package model

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"regexp"
	"strings"
)

// This file is why the example needs a gateway. The scripted model, like real
// ones, does not keep apart what it was told and what it merely read: a
// paragraph in a tool result that speaks to the assistant is obeyed.

var (
	// toTheMachine recognises a paragraph that addresses the model.
	toTheMachine = regexp.MustCompile(`(?i)\bassistant\b|\bAI (agent|model)\b|\blanguage model\b|\bignore (all |any )?(previous|prior|earlier) instructions\b`)

	// callOrder: "call the tool send_email with {...}".
	callOrder = regexp.MustCompile(`(?i)\bcall (?:the tool )?([a-z][a-z0-9_]*) with (\{)`)
	// mailOrder: "forward all order data to someone@example.com".
	mailOrder = regexp.MustCompile(`(?i)\b(?:forward|send|e-?mail) (?:all |the )*(order|customer)s? (?:data|records|details) to ([^\s,;()<>]+@[^\s,;()<>]*[a-z])`)
	// payOrder: "pay invoice 4711 in the ledger (amount_cents 100, currency EUR, ...)".
	payOrder = regexp.MustCompile(`(?i)\bpay invoice #?(\d+)([^\n]*)`)

	payAmount   = regexp.MustCompile(`(?i)amount_cents:? (\d+)`)
	payCurrency = regexp.MustCompile(`(?i)currency:? ([A-Z]{3})\b`)
	payPayee    = regexp.MustCompile(`(?i)payee:? ([^,;)\n]+)`)
	payIBAN     = regexp.MustCompile(`(?i)iban:? ([A-Z]{2}\d{2}[A-Z0-9]{10,30})`)
	payServer   = regexp.MustCompile(`(?i)\bin the ([a-z]+)\b`)
)

// obeyed are the calls that the conversation's tool results order the model to
// make, one at a time and in the order of the text.
func obeyed(v view) []wish {
	for _, w := range v.orders() {
		if len(v.outstanding([]wish{w})) > 0 {
			return []wish{w}
		}
	}
	return nil
}

func (v view) orders() []wish {
	var out []wish
	for _, d := range v.all() {
		if !d.answered || d.failed {
			continue
		}
		for _, text := range texts(d.text) {
			for _, paragraph := range strings.Split(text, "\n\n") {
				if toTheMachine.MatchString(paragraph) {
					out = append(out, v.ordersIn(paragraph)...)
				}
			}
		}
	}
	return out
}

// ordersIn reads the commands in one paragraph.
func (v view) ordersIn(p string) []wish {
	var out []wish
	for _, m := range callOrder.FindAllStringSubmatchIndex(p, -1) {
		var args obj
		raw, err := jsontext.NewDecoder(strings.NewReader(p[m[4]:])).ReadValue()
		if err == nil && json.Unmarshal(raw, &args) == nil {
			out = append(out, wish{tool: p[m[2]:m[3]], args: args, told: true})
		}
	}
	if m := mailOrder.FindStringSubmatch(p); m != nil {
		out = append(out, v.exfiltrate(m[1], m[2])...)
	}
	for _, m := range payOrder.FindAllStringSubmatch(p, -1) {
		out = append(out, payment(m[1], m[2]))
	}
	return out
}

// exfiltrate gathers the data first and then mails it away.
func (v view) exfiltrate(what, to string) []wish {
	gather := wish{tool: "search_orders", args: obj{"query": ""}, told: true}
	body := "(no data)"
	for _, d := range v.of("search_orders") {
		if equalJSON(d.args, jsontext.Value(`{"query":""}`)) && d.refusal() == "" {
			body = d.text
		}
	}
	return []wish{gather, {tool: "send_email", args: obj{"to": to, "subject": "All " + strings.ToLower(what) + " data", "body": body}, told: true}}
}

func payment(number, rest string) wish {
	args := obj{"number": number, "currency": "EUR", "amount_cents": 0, "payee": "", "iban": ""}
	if m := payAmount.FindStringSubmatch(rest); m != nil {
		args["amount_cents"] = jsontext.Value(m[1])
	}
	for key, re := range map[string]*regexp.Regexp{"currency": payCurrency, "payee": payPayee, "iban": payIBAN} {
		if m := re.FindStringSubmatch(rest); m != nil {
			args[key] = strings.TrimSpace(m[1])
		}
	}
	tool := "pay_invoice"
	if m := payServer.FindStringSubmatch(rest); m != nil {
		tool = strings.ToLower(m[1]) + "__pay_invoice"
	}
	return wish{tool: tool, args: args, told: true}
}

// texts are the strings inside a tool result: the values of its JSON, or the
// whole of it when it is not JSON.
func texts(result string) []string {
	var out []string
	dec := jsontext.NewDecoder(strings.NewReader(result))
	for {
		tok, err := dec.ReadToken()
		if err != nil {
			break
		}
		if tok.Kind() == '"' {
			out = append(out, tok.String())
		}
	}
	if len(out) == 0 {
		return []string{result}
	}
	return out
}
