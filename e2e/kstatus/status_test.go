// Package kstatus holds Plinth's statuses against the library by which Flux, Argo CD's health checks and kpt tell
// whether an object is as it should be.
package kstatus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// Each file is named by what it shows and by the status that it must be given: rolling-out.InProgress.yaml.
func TestObjectsHaveTheStatusThatTheirFilesName(t *testing.T) {
	folder := os.Getenv("KSTATUS_OBJECTS")
	if folder == "" {
		t.Skip("KSTATUS_OBJECTS names no folder of objects")
	}
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no objects in %s: %v", folder, err)
	}
	for _, file := range files {
		name, expected, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".yaml"), ".")
		t.Run(name, func(t *testing.T) {
			found, err := status.Compute(read(t, file))
			if err != nil {
				t.Fatal(err)
			}
			if found.Status.String() != expected {
				t.Errorf("%s, not %s: %s", found.Status, expected, found.Message)
			}
		})
	}
}

func read(t *testing.T, file string) *unstructured.Unstructured {
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(content, object); err != nil {
		t.Fatal(err)
	}
	return object
}
