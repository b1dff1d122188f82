package policy

import (
	"iter"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// index finds the rules whose scope may match a request, by action or group
// and by principal or what it is in. It may return a rule that does not match
// (Cedar decides that) and never leaves out one that does.
type index struct {
	buckets map[types.EntityUID]*bucket // by action; the zero key holds rules for any
}

type bucket struct {
	anyone      []*rule
	byPrincipal map[types.EntityUID][]*rule
}

func newIndex(rules []*rule) *index {
	x := &index{buckets: map[types.EntityUID]*bucket{}}
	for _, r := range rules {
		uids := indexKeys(r)
		for _, uid := range uids {
			if len(uids) > 1 {
				if r.buckets == nil {
					r.buckets = map[types.EntityUID]bool{}
				}
				r.buckets[uid] = true
			}
			b := x.buckets[uid]
			if b == nil {
				b = &bucket{byPrincipal: map[types.EntityUID][]*rule{}}
				x.buckets[uid] = b
			}
			if p, ok := principalKey(r); ok {
				b.byPrincipal[p] = append(b.byPrincipal[p], r)
			} else {
				b.anyone = append(b.anyone, r)
			}
		}
	}
	return x
}

// indexKeys returns the actions under which r stands, each once. A rule for
// any action on one connection stands under that connection's group, because a
// call's resource is always its connection.
func indexKeys(r *rule) []types.EntityUID {
	uids, all := r.actions()
	if all {
		if conn, ok := scopeConnection(r); ok {
			return []types.EntityUID{action(string(conn.ID))}
		}
		return []types.EntityUID{{}}
	}
	var once []types.EntityUID
	seen := map[types.EntityUID]bool{}
	for _, uid := range uids {
		if !seen[uid] {
			seen[uid] = true
			once = append(once, uid)
		}
	}
	return once
}

// principalKey returns the entity that the principal must be or be in.
func principalKey(r *rule) (types.EntityUID, bool) {
	switch s := r.ast.Principal.(type) {
	case ast.ScopeTypeEq:
		return s.Entity, true
	case ast.ScopeTypeIn:
		return s.Entity, true
	case ast.ScopeTypeIsIn:
		return s.Entity, true
	}
	return types.EntityUID{}, false
}

// candidates appends to dst the rules that may match a call of t by a
// principal with these keys, which must differ from each other. A rule that
// stands in several buckets is taken from the first.
func (x *index) candidates(dst []*rule, t *tool, principal []types.EntityUID) []*rule {
	dst = x.under(dst, types.EntityUID{}, nil, principal)
	for i, k := range t.keys {
		dst = x.under(dst, k, t.keys[:i], principal)
	}
	return dst
}

func (x *index) under(dst []*rule, key types.EntityUID, before, principal []types.EntityUID) []*rule {
	b := x.buckets[key]
	if b == nil {
		return dst
	}
	dst = appendNew(dst, b.anyone, before)
	if len(b.byPrincipal) == 0 {
		return dst
	}
	for _, p := range principal {
		dst = appendNew(dst, b.byPrincipal[p], before)
	}
	return dst
}

func appendNew(dst, add []*rule, before []types.EntityUID) []*rule {
next:
	for _, r := range add {
		if r.buckets != nil {
			for _, k := range before {
				if r.buckets[k] {
					continue next
				}
			}
		}
		dst = append(dst, r)
	}
	return dst
}

// set is a list of rules as Cedar iterates over it.
type set []*rule

// All implements cedar.PolicyIterator.
func (s set) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for _, r := range s {
			if !yield(r.key, r.policy) {
				return
			}
		}
	}
}
