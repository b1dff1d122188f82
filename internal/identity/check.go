package identity

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
)

var (
	nameForm  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	labelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._/-]{0,62}$`)
)

func checkName(what, name string) error {
	if !nameForm.MatchString(name) {
		return ErrInvalid.Say("%s name must be 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit", what)
	}
	return nil
}

// checkText bounds free text: valid UTF-8, no control characters but line
// breaks and tabs, so that nothing can paint over a terminal or a log line.
func checkText(what, s string, most int) error {
	if utf8.RuneCountInString(s) > most || !utf8.ValidString(s) {
		return ErrInvalid.Say("%s must be at most %d characters of UTF-8", what, most)
	}
	for _, r := range s {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return ErrInvalid.Say("%s must not hold control characters", what)
		}
	}
	return nil
}

func checkLabels(what string, labels map[string]string) error {
	if len(labels) > 32 {
		return ErrInvalid.Say("%sat most 32 labels", what)
	}
	for k, v := range labels {
		if !labelForm.MatchString(k) {
			return ErrInvalid.Say("%slabel names are 1 to 63 of a-z, 0-9, '.', '_', '/' and '-'", what)
		}
		if err := checkText(what+"label "+k, v, 128); err != nil {
			return err
		}
	}
	return nil
}

// checkReason bounds a reason; when must is set it may not be empty.
func checkReason(reason string, must bool) error {
	if must && strings.TrimSpace(reason) == "" {
		return ErrReason
	}
	if err := checkText("reason", reason, 1000); err != nil {
		return ErrReason.With(err)
	}
	return nil
}

// lifetime returns asked, or usual when nothing is asked; an error when it is
// not within (0, most].
func lifetime(what string, asked, usual, most time.Duration) (time.Duration, error) {
	if asked == 0 {
		return usual, nil
	}
	if asked < 0 || asked > most {
		return 0, ErrInvalid.Say("%s must be more than nothing and at most %s", what, days(most))
	}
	return asked, nil
}

func days(d time.Duration) string {
	if d > 48*time.Hour && d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + " days"
	}
	return d.String()
}

// changes is what an update changed: field -> old and new value.
type changes map[string][2]any

func (c changes) add(field, old, now string) {
	if old != now {
		c[field] = [2]any{old, now}
	}
}

// detail returns v as the JSON object of an event. It is only given maps of
// plain values, which always marshal.
func detail(v any) jsontext.Value {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil
	}
	return b
}

func object(kind, name string) string { return kind + "/" + name }

// event returns an administrative event.
func event(t audit.Type, by audit.Actor, reason, object string, v any) audit.Event {
	ev := audit.Event{Type: t, Actor: by, Object: object, Reason: reason}
	if v != nil {
		ev.Detail = detail(v)
	}
	return ev
}
