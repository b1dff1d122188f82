package framework

import (
	"regexp"
	"strings"
)

// Resolved is what was made of an identifier that somebody gave.
type Resolved struct {
	Framework string   `json:"framework"`
	ID        string   `json:"id,omitempty" doc:"empty: the whole framework"`
	Note      string   `json:"note,omitempty" doc:"how the identifier was read, if it is not one of the framework's own"`
	See       []string `json:"see,omitempty" doc:"other readings, or what is near"`
}

var (
	nhi    = regexp.MustCompile(`^NHI-?0?([1-9]|10)(:2025)?$`)
	asi    = regexp.MustCompile(`^(ASI|AGENT)-?0?([1-9]|10)(:2026)?$`)
	csf    = regexp.MustCompile(`^(?:CSF ?(?:1\.1|2\.0)? ?)?([A-Z]{2}\.[A-Z]{2})-0?([1-9][0-9]?)$`)
	soc    = regexp.MustCompile(`^(?:SOC ?2 )?(CC[0-9]\.[0-9])$`)
	iso    = regexp.MustCompile(`^(?:ISO(?:/IEC)? ?42001 )?(A\.[0-9]+(?:\.[0-9]+)+)$`)
	act    = regexp.MustCompile(`^(?:(?:EU )?AI ACT )?ART(?:\.|ICLE)? ?([0-9]+)$`)
	precis = regexp.MustCompile(`^AAI-?0?03$`)
)

// Resolve reads a framework's identifier, a requirement's, or one of the
// spellings in use, with or without the framework before a slash. What it made of
// it is in Note where that is not plain.
func Resolve(text string) (Resolved, bool) {
	text = strings.TrimSpace(text)
	if f, ok := Get(strings.ToLower(text)); ok {
		return Resolved{Framework: f.ID}, true
	}
	in, id, ok := strings.Cut(text, "/")
	if !ok || strings.HasPrefix(strings.ToUpper(text), "ISO/IEC") {
		in, id = "", text
	}
	r, ok := resolve(strings.ToUpper(id))
	if !ok || in != "" && strings.ToLower(in) != r.Framework {
		return Resolved{}, false
	}
	f, ok := Get(r.Framework)
	if !ok {
		return Resolved{}, false
	}
	q, ok := f.Requirement(r.ID)
	if !ok {
		return Resolved{}, false
	}
	if q.Withdrawn {
		if len(q.MovedTo) != 1 || r.ID == "PR.AC-05" {
			r.Note = q.ID + " was withdrawn in CSF 2.0: incorporated into " + strings.Join(q.MovedTo, ", ")
			r.See = refs(r.Framework, q.MovedTo[1:])
		} else {
			r.Note = q.ID + " was withdrawn in CSF 2.0 and moved to " + q.MovedTo[0]
		}
		r.ID = q.MovedTo[0]
	}
	return r, true
}

func refs(framework string, ids []string) []string {
	var out []string
	for _, id := range ids {
		out = append(out, framework+"/"+id)
	}
	return out
}

func resolve(id string) (Resolved, bool) {
	two := func(n string) string {
		if len(n) == 1 {
			return "0" + n
		}
		return n
	}
	if m := nhi.FindStringSubmatch(id); m != nil {
		return Resolved{Framework: "owasp-nhi-2025", ID: "NHI" + m[1] + ":2025"}, true
	}
	if m := asi.FindStringSubmatch(id); m != nil {
		r := Resolved{Framework: "owasp-asi-2026", ID: "ASI" + two(m[2])}
		if m[1] == "AGENT" {
			r.Note = "AGENT-" + two(m[2]) + " is no identifier of OWASP; it is read as " + r.ID
			if m[2] == "3" {
				r.Note += ". Another list has goal manipulation in third place, which is ASI01"
				r.See = []string{"owasp-asi-2026/ASI01"}
			}
		}
		return r, true
	}
	if precis.MatchString(id) {
		return Resolved{Framework: "owasp-asi-2026", ID: "ASI01", Note: "AAI003 is of another list (Agent Goal and Instruction Manipulation); the nearest is ASI01"}, true
	}
	if id == "T3" {
		return Resolved{Framework: "owasp-asi-2026", ID: "ASI03", Note: "T3 Privilege Compromise of OWASP's threats and mitigations is ASI03 here"}, true
	}
	if m := csf.FindStringSubmatch(id); m != nil {
		return Resolved{Framework: "nist-csf-2.0", ID: m[1] + "-" + two(m[2])}, true
	}
	if m := soc.FindStringSubmatch(id); m != nil {
		return Resolved{Framework: "soc2", ID: m[1]}, true
	}
	if m := iso.FindStringSubmatch(id); m != nil {
		return Resolved{Framework: "iso-42001", ID: m[1]}, true
	}
	if m := act.FindStringSubmatch(id); m != nil {
		return Resolved{Framework: "eu-ai-act", ID: "Art. " + m[1]}, true
	}
	return Resolved{}, false
}
