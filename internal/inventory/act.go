package inventory

import (
	"regexp"
	"strings"
)

// plain is a name that may stand in a command as it is. Others chose the names
// that were observed: what a shell would read is never put into a command.
var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

func word(name, otherwise string) string {
	if plain.MatchString(name) {
		return name
	}
	return otherwise
}

func (e Entry) setAside() Act {
	return Act{"set aside", "countersign inventory set-aside " + e.ID + " --until 30d --reason TEXT"}
}

// look shows the latest event, by its identifier: that is ours.
func (e Entry) look() Act { return Act{"look", "countersign log show " + word(e.Event, "EVENT")} }

// acts are the commands that act on an entry, but for looking and setting aside.
func acts(e Entry) []Act {
	first, rest, _ := strings.Cut(e.Name, "/")
	conn, name := word(first, "CONNECTION"), word(rest, "NAME")
	if e.State == Unobserved {
		return unused(e, conn, name)
	}
	switch e.Kind {
	case KindAgent:
		return []Act{{"register", "countersign agent create " + word(e.Name, "NAME") + " --owner USER"}}
	case KindCaller:
		return []Act{{"register", "countersign agent create NAME --owner USER"}, {"import", "countersign import scan"}}
	case KindConnection:
		return []Act{{"register", "countersign connection add " + word(e.Name, "NAME") + " --owner USER --kind KIND --url URL"}}
	case KindTool:
		return []Act{{"accept", "countersign tool accept " + conn + "/" + name + " --reason TEXT"}, {"refuse", "countersign lock add tool " + conn + "/" + name + " --reason TEXT"},
			{"import", "countersign connection refresh " + conn}}
	case KindModel:
		return []Act{{"register", "countersign budget price set " + name + " --input N --output N --reason TEXT"}}
	case KindSecret:
		return []Act{{"import", "countersign secret put NAME --owner USER --connection CONNECTION"}, {"refuse", "countersign secret report FILE"}}
	case KindHost:
		return []Act{{"register", "countersign connection add NAME --owner USER --kind http --url https://HOST"}}
	}
	return nil
}

func unused(e Entry, conn, name string) []Act {
	switch e.Kind {
	case KindAgent:
		return []Act{{"decommission", "countersign agent decommission " + word(e.Name, "NAME") + " --reason TEXT"}}
	case KindConnection:
		return []Act{{"delete", "countersign connection delete " + word(e.Name, "NAME") + " --reason TEXT"}}
	case KindTool:
		return []Act{{"refuse", "countersign lock add tool " + conn + "/" + name + " --reason TEXT"}}
	case KindSecret:
		return []Act{{"delete", "countersign secret delete " + name + " --reason TEXT"}}
	}
	return nil
}
