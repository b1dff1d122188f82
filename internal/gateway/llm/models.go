package llm

import (
	"bytes"
	"encoding/json/jsontext"
	"errors"
	"io"
)

var errNotAList = errors.New("the list of models is not an object with one array \"data\" of objects with an id")

// filterModels returns body, a list of models in either dialect, without those
// that keep refuses. Order, spacing within items and unknown fields stay as
// they are. It fails if body is anything but such a list: then nobody can say
// what it shows.
func filterModels(body []byte, keep func(model string) bool) ([]byte, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '{' {
		return nil, errors.Join(errNotAList, err)
	}
	start, end := -1, -1
	var items []byte
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return nil, errors.Join(errNotAList, err)
		}
		if name.String() != "data" {
			if err := dec.SkipValue(); err != nil {
				return nil, errors.Join(errNotAList, err)
			}
			continue
		}
		v, err := dec.ReadValue()
		if err != nil || v.Kind() != '[' {
			return nil, errors.Join(errNotAList, err)
		}
		end = int(dec.InputOffset())
		start = end - len(v)
		if items, err = filterItems(v, keep); err != nil {
			return nil, err
		}
	}
	if _, err := dec.ReadToken(); err != nil || start < 0 {
		return nil, errors.Join(errNotAList, err)
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errors.Join(errNotAList, err)
	}
	out := make([]byte, 0, len(body))
	out = append(out, body[:start]...)
	out = append(out, items...)
	return append(out, body[end:]...), nil
}

func filterItems(array jsontext.Value, keep func(string) bool) ([]byte, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(array))
	if _, err := dec.ReadToken(); err != nil {
		return nil, errors.Join(errNotAList, err)
	}
	out := []byte{'['}
	for dec.PeekKind() != ']' {
		item, err := dec.ReadValue()
		if err != nil {
			return nil, errors.Join(errNotAList, err)
		}
		model, err := idOf(item)
		if err != nil {
			return nil, err
		}
		if !keep(model) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, item...)
	}
	return append(out, ']'), nil
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
