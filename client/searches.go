package client

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// SavedSearch is a search that a person keeps under a name.
type SavedSearch struct {
	ID      string    `json:"id"` // owner/name
	Owner   string    `json:"owner"`
	Name    string    `json:"name"`
	Query   string    `json:"query"`
	Shared  bool      `json:"shared"`
	Mine    bool      `json:"mine,omitzero"`
	Updated time.Time `json:"updated"`
}

// SavedSearches lists one's own saved searches and those that others share.
func (c *Client) SavedSearches(ctx context.Context) ([]SavedSearch, error) {
	var out struct {
		Searches []SavedSearch `json:"searches"`
	}
	err := c.do(ctx, http.MethodGet, v1+"/log/searches", nil, nil, &out)
	return out.Searches, err
}

// SaveSearch keeps a search under a name, or replaces it.
func (c *Client) SaveSearch(ctx context.Context, name, query string, shared bool) (SavedSearch, error) {
	return send[SavedSearch](ctx, c, http.MethodPut, v1+"/log/searches"+segment(name), struct {
		Query  string `json:"query"`
		Shared bool   `json:"shared"`
	}{query, shared})
}

// DeleteSearch forgets a saved search of one's own.
func (c *Client) DeleteSearch(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, v1+"/log/searches"+segment(name), nil, nil, nil)
}

// ExpandQuery replaces every @name, or @owner/name, among the parts of a query
// by the saved search of that name. One's own come first; of others' the only
// one that has the name.
func (c *Client) ExpandQuery(ctx context.Context, parts []string) (string, error) {
	var saved []SavedSearch
	out := make([]string, len(parts))
	for i, p := range parts {
		name, ok := strings.CutPrefix(p, "@")
		if !ok {
			out[i] = p
			continue
		}
		if saved == nil {
			var err error
			if saved, err = c.SavedSearches(ctx); err != nil {
				return "", err
			}
		}
		found, err := findSaved(saved, name)
		if err != nil {
			return "", err
		}
		out[i] = found.Query
	}
	return strings.Join(out, " "), nil
}

func findSaved(saved []SavedSearch, name string) (SavedSearch, error) {
	var named []SavedSearch
	for _, s := range saved {
		switch {
		case s.ID == name, s.Name == name && s.Mine:
			return s, nil
		case s.Name == name:
			named = append(named, s)
		}
	}
	switch len(named) {
	case 0:
		return SavedSearch{}, fmt.Errorf("no saved search is called %q: see countersign log searches list", name)
	case 1:
		return named[0], nil
	}
	var ids []string
	for _, s := range named {
		ids = append(ids, "@"+s.ID)
	}
	return SavedSearch{}, fmt.Errorf("several people share a search called %q: say %s", name, strings.Join(ids, " or "))
}
