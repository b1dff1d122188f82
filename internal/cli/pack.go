package cli

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

//go:embed packs
var packs embed.FS

// packNames are the policies that come with Countersign.
var packNames = []string{"containment"}

var groupForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// policyPack writes a policy that comes with Countersign, to be read and applied.
func (a *app) policyPack() *cobra.Command {
	var to, out string
	cmd := &cobra.Command{Use: "pack NAME", Short: "Write a ready-made policy, to read and apply", Args: operands("NAME"), ValidArgs: packNames}
	cmd.Flags().StringVar(&to, "group", "", "group that decides what the policy holds")
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: print it)")
	cmd.Long = `Writes a policy that comes with Countersign. It needs no server and changes nothing: read it, then countersign apply -f FILE.

containment: a run that has read untrusted content may do what can be taken back; what reaches somebody, gives access or cannot be taken back
waits for a person, unless everything that matters in it is what the user said and asked for. Say of each tool which arguments matter and whose
words its answers are: countersign tool flow.`
	cmd.Example = `  countersign policy pack containment --group finance-controllers --out containment.cedar
  countersign apply -f containment.cedar --reason 'agents read mail'`
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if !slices.Contains(packNames, args[0]) {
			return usageError{fmt.Errorf("there is no pack %q; there are %s", args[0], strings.Join(packNames, ", "))}
		}
		if !groupForm.MatchString(to) {
			return usageError{errors.New("give --group NAME: who decides what the policy holds")}
		}
		b, err := packs.ReadFile("packs/" + args[0] + ".cedar")
		if err != nil {
			return err
		}
		text := strings.Replace(string(b), `"GROUP"`, `"`+to+`"`, -1)
		if out == "" {
			_, err = fmt.Fprint(a.stdout, text)
			return err
		}
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	return cmd
}
