package llm

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
)

var errNotAList = errors.New("the list of models is not an object with one array \"data\" of objects with an id")

// edit replaces body[start:end].
type edit struct {
	start, end int
	with       []byte
}

// filterModels returns body, a list of models in either dialect, without those
// that keep refuses. Order, spacing within items and unknown fields stay as
// they are. The cursors first_id and last_id name kept models only, but on a
// page that has a next one, where the client needs last_id to get it. It fails
// if body is anything but such a list: then nobody can say what it shows.
func filterModels(body []byte, keep func(model string) bool) ([]byte, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '{' {
		return nil, errors.Join(errNotAList, err)
	}
	var edits []edit
	var kept []string
	data, more := false, false
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, errors.Join(errNotAList, err)
		}
		field := name.String()
		v, err := dec.ReadValue()
		if err != nil {
			return nil, errors.Join(errNotAList, err)
		}
		e := edit{start: int(dec.InputOffset()) - len(v), end: int(dec.InputOffset())}
		switch field {
		case "data":
			data = true
			if e.with, kept, err = filterItems(v, keep); err != nil {
				return nil, err
			}
			edits = append(edits, e)
		case "has_more":
			more = v.Kind() == 't'
		case "first_id", "last_id":
			e.with = []byte(field)
			edits = append(edits, e)
		}
	}
	if _, err := dec.ReadToken(); err != nil || !data {
		return nil, errors.Join(errNotAList, err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errors.Join(errNotAList, err)
	}
	return splice(body, edits, kept, more), nil
}

// splice applies the edits. Those of cursors hold the cursor's name so far.
func splice(body []byte, edits []edit, kept []string, more bool) []byte {
	out, copied := make([]byte, 0, len(body)), 0
	for _, e := range edits {
		switch string(e.with) {
		case "first_id", "last_id":
			switch first := string(e.with) == "first_id"; {
			case more && !first:
				continue
			case len(kept) == 0:
				e.with = []byte("null")
			case first:
				e.with = appendString(nil, kept[0])
			default:
				e.with = appendString(nil, kept[len(kept)-1])
			}
		}
		out = append(append(out, body[copied:e.start]...), e.with...)
		copied = e.end
	}
	return append(out, body[copied:]...)
}

// filterItems returns what is left of the array and the models in it.
func filterItems(array jsontext.Value, keep func(string) bool) ([]byte, []string, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(array))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '[' {
		return nil, nil, errors.Join(errNotAList, err)
	}
	out, kept := []byte{'['}, []string(nil)
	for dec.PeekKind() != ']' {
		item, err := dec.ReadValue()
		if err != nil {
			return nil, nil, errors.Join(errNotAList, err)
		}
		model, err := idOf(item)
		if err != nil {
			return nil, nil, err
		}
		if !keep(model) {
			continue
		}
		if len(kept) > 0 {
			out = append(out, ',')
		}
		out, kept = append(out, item...), append(kept, model)
	}
	return append(out, ']'), kept, nil
}

func idOf(item jsontext.Value) (string, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(item))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '{' {
		return "", errors.Join(errNotAList, err)
	}
	for dec.PeekKind() == '"' {
		name, err := dec.ReadToken()
		if err != nil {
			return "", errors.Join(errNotAList, err)
		}
		if name.String() != "id" {
			if err := dec.SkipValue(); err != nil {
				return "", errors.Join(errNotAList, err)
			}
			continue
		}
		if t, err := dec.ReadToken(); err == nil && t.Kind() == '"' && t.String() != "" {
			return t.String(), nil
		}
		break
	}
	return "", errNotAList
}
