package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/client"
)

func (a *app) doctorCommand() *cobra.Command {
	var quick, deep bool
	cmd := &cobra.Command{Use: "doctor", Short: "Check that everything is as it should be", Args: operands(),
		Long: `Looks at your settings, the server, its database, its view of identities, private files, policies, tools and findings, and verifies the
log from its first event. Every line says what to do. Exit 1 if anything failed.

With --deep it also compares the log with its Merkle tree and signed checkpoints, the search index with the log, and every call that was let
out with its outcome. The server does a part of that once an hour by itself.`,
		Example: "  countersign doctor\n  countersign doctor --deep"}
	cmd.Flags().BoolVar(&quick, "quick", false, "do not verify the log")
	cmd.Flags().BoolVar(&deep, "deep", false, "compare log, payloads, tree, index and calls with each other")
	cmd.MarkFlagsMutuallyExclusive("quick", "deep")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		checks := a.examine(cmd.Context(), quick || deep)
		if deep {
			checks = append(checks, a.examineDeep(cmd.Context())...)
		}
		if err := a.printChecks(checks); err != nil {
			return err
		}
		for _, c := range checks {
			if c.Status == "fail" {
				return exitError{1}
			}
		}
		return nil
	}
	return cmd
}

// examine looks at everything that can be seen from here.
func (a *app) examine(ctx context.Context, quick bool) []client.Check {
	c, err := a.client()
	if err != nil {
		return []client.Check{{ID: "settings", Name: "your settings", Status: "fail", Detail: err.Error(), Fix: "countersign login --url URL"}}
	}
	checks := []client.Check{{ID: "settings", Name: "your settings", Status: "ok", Detail: c.URL()}}
	h, err := c.Doctor(ctx)
	if err != nil {
		return append(checks, unreached(err))
	}
	checks = append(checks, client.Check{ID: "server", Name: "server", Status: "ok", Detail: "answers, version " + h.Version}, a.checkVersion(h.Version), checkClock(h.Time))
	checks = append(checks, h.Checks...)
	if !quick {
		checks = append(checks, a.checkLog(ctx, c))
	}
	return append(checks, checkUnknown(ctx, c))
}

func unreached(err error) client.Check {
	c := client.Check{ID: "server", Name: "server", Status: "fail", Detail: err.Error(), Fix: "countersign up starts one here"}
	var refused *client.Error
	if errors.As(err, &refused) {
		c.Fix = "see the server's own log"
		if refused.Status == 401 {
			c.Fix = "countersign login"
		}
	}
	return c
}

func (a *app) checkVersion(server string) client.Check {
	if server == a.opts.Version {
		return client.Check{ID: "version", Name: "version", Status: "ok", Detail: "the same here and there"}
	}
	return client.Check{ID: "version", Name: "version", Status: "warn", Detail: "this is " + a.opts.Version + ", the server is " + server, Fix: "use the same version on both sides"}
}

func checkClock(server time.Time) client.Check {
	c := client.Check{ID: "clock", Name: "clock", Status: "ok", Detail: "within 5 seconds of the server's"}
	if d := time.Since(server).Abs(); d > 5*time.Second {
		c.Status, c.Detail, c.Fix = "warn", "differs from the server's by "+span(d), "let NTP set both clocks: expiries and the log's times depend on them"
	}
	return c
}

func (a *app) checkLog(ctx context.Context, c *client.Client) client.Check {
	check := client.Check{ID: "log", Name: "log"}
	var v client.Verification
	err := a.waiting("verifying the log", func() (err error) {
		v, err = c.VerifyLog(ctx)
		return err
	})
	switch {
	case err != nil:
		check.Status, check.Detail, check.Fix = "fail", err.Error(), "countersign log verify"
	case !v.OK:
		check.Status, check.Detail, check.Fix = "fail", "was changed: "+v.Problems[0].Message, "countersign log verify shows where; keep the database as evidence"
	default:
		check.Status, check.Detail = "ok", fmt.Sprintf("%d events and %d payloads verified in %d ms", v.Events, v.Payloads, v.Millis)
	}
	return check
}

// checkUnknown looks for calls whose end nobody saw.
func checkUnknown(ctx context.Context, c *client.Client) client.Check {
	check := client.Check{ID: "unknown", Name: "calls with an unknown end", Status: "ok", Detail: "none in the last 7 days"}
	page, err := c.SearchLog(ctx, "type:call.outcome status:unknown since:7d", "", 1000, false)
	switch {
	case err != nil:
		check.Status, check.Detail = "fail", err.Error()
	case len(page.Events) > 0:
		check.Status, check.Detail = "warn", fmt.Sprintf("%d in the last 7 days: the server ended while they ran", len(page.Events))
		check.Fix = "countersign log search 'status:unknown since:7d', and ask the systems behind them what happened"
	case page.Behind > 10000:
		check.Status, check.Detail = "warn", fmt.Sprintf("search is %d events behind", page.Behind)
	}
	return check
}

func (a *app) printChecks(checks []client.Check) error {
	if a.output == "json" {
		return a.printJSON(checks)
	}
	for _, c := range checks {
		fmt.Fprintf(a.stdout, "%s  %-30s %s\n", a.paint(a.stdout, statusColour(c.Status), fmt.Sprintf("%-4s", c.Status)), inert(c.Name, 0), inert(c.Detail, 0))
		if c.Fix != "" {
			fmt.Fprintf(a.stdout, "      %s %s\n", a.paint(a.stdout, dim, "->"), inert(c.Fix, 0))
		}
	}
	return nil
}
