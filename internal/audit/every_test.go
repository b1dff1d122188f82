package audit_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
)

// everyString returns an event all of whose strings contain s, so that a field
// added to Event and forgotten by the redaction is found.
func everyString(t *testing.T, s string) audit.Event {
	t.Helper()
	var ev audit.Event
	fill(reflect.ValueOf(&ev).Elem(), "x "+s+" y")
	ev.ID, ev.Time, ev.Payloads, ev.Detail = "", time.Time{}, nil, nil
	return ev
}

func fill(v reflect.Value, s string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), s)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), s)
		fill(v.Index(1), s)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), s)
			}
		}
	default:
	}
}
