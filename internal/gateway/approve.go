package gateway

import (
	"strings"

	"github.com/countersign/countersign/internal/policy"
)

// approve lets people answer a held call. In this version nobody can: a held
// call is refused as pending and recorded with the groups whose approval it
// lacks, so that it fails closed and nothing is lost. When people can answer,
// a call that they approved starts again at authenticate; nothing else changes
// here.
func (g *Gateway) approve(v verdict) verdict {
	if v.effect != policy.Hold {
		return v
	}
	v.code = CodePending
	if groups := approvers(v.holds); groups != "" {
		v.reason = "this call needs the approval of " + groups + "; it was recorded and not made"
	} else {
		v.reason = "this call needs an approval; it was recorded and not made"
	}
	if v.record.Reason == "" {
		v.record.Reason = v.reason
	}
	return v
}

func approvers(holds []policy.Needed) string {
	var names []string
	seen := map[string]bool{}
	for _, h := range holds {
		for _, group := range h.Groups {
			if !seen[group] {
				seen[group] = true
				names = append(names, group)
			}
		}
	}
	return strings.Join(names, " and ")
}
