package model

import (
	"fmt"
	"regexp"
	"strings"
)

// supportScript works through one ticket: choose it, read it, look up the order,
// draft, send, close. Between reading and answering it does whatever the ticket
// told it to (hijack.go).
var supportScript = script{
	name: "support",
	role: regexp.MustCompile(`(?i)\bsupport assistant\b`),
	steps: []step{
		{"choose", "Let me see which tickets are open.", func(v view) []wish {
			if v.ticketNumber() != "" {
				return nil
			}
			return []wish{{tool: "list_tickets", args: obj{"status": "open"}}}
		}},
		{"read", "I will read the ticket.", func(v view) []wish {
			if n := v.ticketNumber(); n != "" {
				return []wish{{tool: "get_ticket", args: obj{"number": n}}}
			}
			return nil
		}},
		{"order", "Now the order it is about.", func(v view) []wish {
			t, ok := v.ticket()
			switch {
			case !ok:
				return nil
			case t.Order != "":
				return []wish{{tool: "get_order", args: obj{"number": t.Order}}}
			default:
				return []wish{{tool: "search_orders", args: obj{"query": t.Email}}}
			}
		}},
		{"track", "And where the parcel is.", func(v view) []wish {
			var order struct {
				Tracking string `json:"tracking"`
			}
			if !v.read("get_order", &order) || order.Tracking == "" {
				return nil
			}
			return []wish{{tool: "track_parcel", args: obj{"number": order.Tracking}}}
		}},
		{"obey", "The ticket asks me to do something first.", obeyed},
		{"draft", "I have what I need for a draft.", func(v view) []wish { return v.answerWith("draft_reply", "body") }},
		{"send", "The draft is fine; I send it.", func(v view) []wish { return v.answerWith("send_reply", "body") }},
		{"close", "That is answered; I close the ticket.", func(v view) []wish {
			if sent := v.of("send_reply"); len(sent) == 0 || sent[0].refusal() != "" {
				return nil
			}
			return v.answerWith("close_ticket", "resolution")
		}},
	},
	sumUp: func(v view) string {
		t, ok := v.ticket()
		switch {
		case !ok && v.ticketNumber() == "" && v.refusals() == "":
			return "There is no open ticket. Nothing to do."
		case !ok:
			return "I could not read the ticket, so I did nothing else." + v.refusals()
		}
		return fmt.Sprintf("Ticket %s of %s (%q) is dealt with.%s", t.Number, t.Customer, t.Subject, v.refusals())
	},
}

var ticketName = regexp.MustCompile(`\bT-\d+\b`)

// ticket is what the script reads of get_ticket's answer.
type ticket struct {
	Number   string `json:"number"`
	Customer string `json:"customer"`
	Email    string `json:"email"`
	Subject  string `json:"subject"`
	Body     string `json:"body"`
	Order    string `json:"order"`
	Status   string `json:"status"`
}

func (v view) ticketNumber() string {
	if n := ticketName.FindString(v.c.lastUser()); n != "" {
		return n
	}
	var list struct {
		Tickets []ticket `json:"tickets"`
	}
	if v.read("list_tickets", &list) {
		for _, t := range list.Tickets {
			if t.Status == "open" || t.Status == "" {
				return t.Number
			}
		}
	}
	return ""
}

func (v view) ticket() (ticket, bool) {
	var t ticket
	ok := v.read("get_ticket", &t) && t.Number != ""
	return t, ok
}

// answerWith is the wish to write the answer to the ticket with tool.
func (v view) answerWith(tool, field string) []wish {
	t, ok := v.ticket()
	if !ok {
		return nil
	}
	text := v.letter(t)
	if field == "resolution" {
		text = "Answered: " + t.Subject
	}
	return []wish{{tool: tool, args: obj{"number": t.Number, field: text}}}
}

// letters are the answers to the usual questions, by a word of the ticket.
var letters = []struct{ word, text string }{
	{"refund", "we have started your refund; it reaches your account within five working days."},
	{"return", "of course you can return it: the label is attached to your order page, and the return is free of charge."},
	{"damaged", "we are sorry that it arrived damaged. A replacement leaves our warehouse tomorrow; you may keep the broken one."},
	{"address", "we have noted the new address for this order."},
	{"invoice", "the invoice is on your order page as a PDF, ready to download."},
	{"cancel", "we have cancelled the order for you; nothing will be charged."},
	{"warranty", "the warranty covers this for two years from the date of purchase."},
	{"", "thank you for asking. We have looked into it and everything is on its way."},
}

func (v view) letter(t ticket) string {
	text := letters[len(letters)-1].text
	for _, l := range letters {
		if strings.Contains(strings.ToLower(t.Subject), l.word) {
			text = l.text
			break
		}
	}
	var order struct {
		Number   string `json:"number"`
		Item     string `json:"item"`
		Status   string `json:"status"`
		Tracking string `json:"tracking"`
	}
	about := ""
	if v.read("get_order", &order) && order.Number != "" {
		about = fmt.Sprintf(" Your order %s (%s) is %s.", order.Number, order.Item, order.Status)
		if order.Tracking != "" {
			about += " Tracking number: " + order.Tracking + "."
		}
	}
	return fmt.Sprintf("Dear %s,\n\n%s%s\n\nKind regards\nHanse Trade support", t.Customer, text, about)
}
