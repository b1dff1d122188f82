package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) logSearches() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List your saved searches and those that others share", Args: operands()}
	list.RunE = a.call(a.listSearches)
	remove := &cobra.Command{Use: "delete NAME", Short: "Forget a saved search of yours", Args: operands("NAME"), ValidArgsFunction: a.completeFirst(savedNames)}
	remove.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		if err := c.DeleteSearch(ctx, args[0]); err != nil {
			return err
		}
		return a.did(gone{args[0], true}, "search %s forgotten", args[0])
	})
	return group("searches", "See and delete saved searches (log search --save NAME keeps one, log search @NAME uses it)", list, remove)
}

func (a *app) listSearches(ctx context.Context, c *client.Client, _ []string) error {
	all, err := c.SavedSearches(ctx)
	if err != nil {
		return err
	}
	return list(a, all, "no saved searches; keep one with: countersign log search --save NAME QUERY...",
		column[client.SavedSearch]{title: "SEARCH", text: func(s client.SavedSearch) string { return "@" + s.ID }},
		column[client.SavedSearch]{title: "SHARED", text: func(s client.SavedSearch) string { return map[bool]string{true: "yes"}[s.Shared] }},
		column[client.SavedSearch]{title: "UPDATED", text: func(s client.SavedSearch) string { return ago(s.Updated) }},
		column[client.SavedSearch]{title: "QUERY", text: func(s client.SavedSearch) string { return s.Query }})
}

func savedNames(ctx context.Context, c *client.Client) ([]string, error) {
	l, err := c.SavedSearches(ctx)
	return namesOf(l, err, func(s client.SavedSearch) string { return s.Name })
}

// save keeps a query under a name, if there is one.
func (a *app) save(ctx context.Context, c *client.Client, name, query string, shared bool) error {
	if name == "" {
		return nil
	}
	s, err := c.SaveSearch(ctx, name, query, shared)
	if err != nil {
		return err
	}
	if a.output != "json" {
		fmt.Fprintln(a.stderr, a.paint(a.stderr, dim, fmt.Sprintf("saved: countersign log search @%s", inert(s.Name, 0))))
	}
	return nil
}
