package audit_test

import (
	"bytes"
	"encoding/json/jsontext"
	"reflect"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/audit/audittest"
	"github.com/countersign/countersign/internal/storage/storagetest"
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

// The bytes of a record are canonical without having been sorted: a field that
// is declared out of order, or a text that is escaped otherwise, shows here.
func TestRecordsAreCanonical(t *testing.T) {
	log := open(t, storagetest.Open(t, storagetest.SQLite(t)), audit.Options{Redactor: unchanged{}, Keeper: audittest.Keeper("k")})
	ev := everyString(t, "<&>\u2028\u007f\t\n\"\\é\U0001F600\x01")
	ev.Type = "test.recorded"
	ev.Detail = jsontext.Value(`{"b":1.50,"a":["\u00e9<",{"z":null,"y":true}]}`)
	ref, err := log.Append(t.Context(), ev, audit.Payload{Name: "arguments", Body: []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := log.Get(t.Context(), ref.ID)
	if err != nil {
		t.Fatal(err)
	}
	canonical := jsontext.Value(bytes.Clone(rec.Raw))
	if err := canonical.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(canonical, rec.Raw) {
		t.Errorf("the record is\n%s\nand canonical would be\n%s", rec.Raw, canonical)
	}
}

func fill(v reflect.Value, s string) {
	switch v.Kind() {
	case reflect.Int64, reflect.Int:
		v.SetInt(7)
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

type unchanged struct{}

func (unchanged) Redact(b []byte) []byte { return b }
