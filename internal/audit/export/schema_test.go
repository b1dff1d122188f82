package export_test

import (
	"encoding/json/v2"
	"fmt"
	"os"
	"slices"
	"sort"
	"testing"
)

// schema is the part of OCSF's schema that concerns what we emit, taken from
// the published one (see the file's source).
type schema struct {
	Version string
	Classes map[string]shape
	Objects map[string]shape
}

type shape struct {
	Name        string
	Category    int
	Caption     string
	Constraints map[string][]string
	Attributes  map[string]member
}

type member struct {
	Requirement, Object, Type, Form, Profile string
	Array                                    bool
	Enum                                     []int64
}

func readSchema(t testing.TB) schema {
	t.Helper()
	b, err := os.ReadFile("testdata/ocsf-1.8.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(b, &s, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatal(err)
	}
	return s
}

// check returns what is wrong with an OCSF object.
func (s schema) check(line []byte) (problems []string) {
	var o map[string]any
	if err := json.Unmarshal(line, &o); err != nil {
		return []string{err.Error()}
	}
	uid, _ := o["class_uid"].(float64)
	class, ok := s.Classes[fmt.Sprint(int(uid))]
	if !ok {
		return []string{fmt.Sprintf("class_uid %v is none of the four", o["class_uid"])}
	}
	var profiles []string
	if m, ok := o["metadata"].(map[string]any); ok {
		list, _ := m["profiles"].([]any)
		for _, p := range list {
			profiles = append(profiles, fmt.Sprint(p))
		}
		if m["version"] != s.Version {
			problems = append(problems, fmt.Sprintf("metadata.version %v", m["version"]))
		}
	}
	num := func(name string) int64 { n, _ := o[name].(float64); return int64(n) }
	if num("category_uid") != int64(class.Category) || num("type_uid") != num("class_uid")*100+num("activity_id") || o["class_name"] != class.Caption {
		problems = append(problems, fmt.Sprintf("category %v, type %v, class name %v", o["category_uid"], o["type_uid"], o["class_name"]))
	}
	problems = append(problems, s.object("", class, o, profiles)...)
	sort.Strings(problems)
	return problems
}

func (s schema) object(path string, sh shape, o map[string]any, profiles []string) (problems []string) {
	for name, a := range sh.Attributes {
		if a.Requirement == "required" && o[name] == nil && (a.Profile == "" || slices.Contains(profiles, a.Profile)) {
			problems = append(problems, path+name+" is required")
		}
	}
	for rule, names := range sh.Constraints {
		n := 0
		for _, name := range names {
			if o[name] != nil {
				n++
			}
		}
		if rule == "at_least_one" && n == 0 || rule == "just_one" && n != 1 {
			problems = append(problems, fmt.Sprintf("%s: %s of %v", path, rule, names))
		}
	}
	for name, v := range o {
		a, ok := sh.Attributes[name]
		switch {
		case path == "" && name == "unmapped":
		case !ok:
			problems = append(problems, path+name+" is no attribute")
		case a.Profile != "" && !slices.Contains(profiles, a.Profile):
			problems = append(problems, fmt.Sprintf("%s%s belongs to the profile %s, which is not named", path, name, a.Profile))
		case a.Array:
			list, ok := v.([]any)
			if !ok || len(list) == 0 {
				problems = append(problems, path+name+" is no list")
			}
			for _, one := range list {
				problems = append(problems, s.value(path+name, a, one, profiles)...)
			}
		default:
			problems = append(problems, s.value(path+name, a, v, profiles)...)
		}
	}
	return problems
}

func (s schema) value(path string, a member, v any, profiles []string) []string {
	if a.Object != "" {
		o, ok := v.(map[string]any)
		sh, known := s.Objects[a.Object]
		if !ok || !known {
			return []string{fmt.Sprintf("%s is no object that the schema file describes", path)}
		}
		return s.object(path+".", sh, o, profiles)
	}
	switch n, isNumber := v.(float64); a.Type {
	case "integer_t", "long_t":
		if !isNumber || n != float64(int64(n)) || a.Enum != nil && !slices.Contains(a.Enum, int64(n)) {
			return []string{fmt.Sprintf("%s: %v is no integer of its enumeration", path, v)}
		}
	case "string_t":
		if _, ok := v.(string); !ok {
			return []string{fmt.Sprintf("%s: %v is no string", path, v)}
		}
	case "boolean_t":
		if _, ok := v.(bool); !ok {
			return []string{fmt.Sprintf("%s: %v is no boolean", path, v)}
		}
	}
	return nil
}
