package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

// maxOpenAPI is the largest document the server takes, in bytes.
const maxOpenAPI = 32 << 20

func (a *app) connectionImport() *cobra.Command {
	var only []string
	cmd := &cobra.Command{Use: "import-openapi NAME FILE|-", Short: "Read the operations of an HTTP API out of its OpenAPI document", Args: operands("NAME", "FILE"),
		ValidArgsFunction: a.completeFirst(connectionNames),
		Long: `Makes a tool of each operation (OpenAPI 3.0 or 3.1, JSON or YAML), pinned in your name: GET and HEAD read, everything else writes,
until countersign tool effect says otherwise. Importing again compares: operations that changed or are new are refused until somebody
accepts them (countersign tool diff, countersign tool accept). Take what agents need, not all there is: --only.`,
		Example: `  countersign connection import-openapi github api.github.com.json --only 'issues/*' --only 'pulls/*'`}
	cmd.Flags().StringArrayVar(&only, "only", nil, "pattern of operationId, such as 'repos/*' (repeatable; default all)")
	cmd.RunE = a.call(func(ctx context.Context, c *client.Client, args []string) error {
		document, err := readOpenAPI(args[1])
		if err != nil {
			return err
		}
		var r client.Imported
		err = a.waiting("importing "+args[1], func() (err error) {
			r, err = c.ImportOpenAPI(ctx, args[0], document, only)
			return err
		})
		if err != nil {
			return err
		}
		if a.output == "json" {
			return a.printJSON(r)
		}
		a.refreshed(args[0], r.Refreshed)
		for _, l := range r.Left {
			a.warn("left out: %s", inert(l, 400))
		}
		return nil
	})
	return cmd
}

func readOpenAPI(name string) (string, error) {
	if name == "-" {
		return documentFrom(os.Stdin, "standard input")
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return documentFrom(f, name)
}

func documentFrom(r io.Reader, name string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxOpenAPI+1))
	if err == nil && len(b) > maxOpenAPI {
		err = fmt.Errorf("%s is over 32 MiB", name)
	}
	return string(b), err
}

// refreshed says what looking at a connection's tools found.
func (a *app) refreshed(name string, r client.Refreshed) {
	a.done("%s has %d tools", name, len(r.Pinned)+len(r.Same)+len(r.Changed)+len(r.New))
	for _, l := range []struct {
		names []string
		what  string
	}{{r.Pinned, "pinned now"}, {r.Changed, "changed and refused: countersign tool diff"}, {r.New, "new and refused: countersign tool diff"}, {r.Gone, "gone"}} {
		for _, n := range l.names {
			fmt.Fprintf(a.stdout, "  %s  %s\n", inert(n, 128), a.paint(a.stdout, dim, l.what))
		}
	}
}
