package cli

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestHelpTextsAreBrokenByTheTerminal(t *testing.T) {
	long := strings.Repeat("word ", 25) + "end"
	below := &cobra.Command{Use: "below", Long: long + "\nof it.\n\n" + long + "\n  indented\nshort\nlines"}
	root := &cobra.Command{Use: "root"}
	root.AddCommand(below)
	rejoin(root)
	if want := long + " of it.\n\n" + long + "\n  indented\nshort\nlines"; below.Long != want {
		t.Errorf("%q", below.Long)
	}
}
