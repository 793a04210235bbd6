package main

import (
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// browser lists the files of one datastore.
type browser struct {
	simulator.HostDatastoreBrowser
	server *server
	store  *store
}

func newBrowser(s *server, d *store) *browser {
	b := &browser{server: s, store: d}
	b.Self = d.Browser
	b.Datastore = []types.ManagedObjectReference{d.Self}
	return b
}

// SearchDatastoreTask lists one directory.
func (b *browser) SearchDatastoreTask(req *types.SearchDatastore_Task) soap.HasFault {
	what := func() (types.AnyType, types.BaseMethodFault) {
		found, fault := b.search(req.DatastorePath, req.SearchSpec, false)
		if fault != nil {
			return nil, fault
		}
		return found[0], nil
	}
	return &methods.SearchDatastore_TaskBody{Res: &types.SearchDatastore_TaskResponse{
		Returnval: b.server.start(b.store.Self, "SearchDatastore_Task", what),
	}}
}

// SearchDatastoreSubFoldersTask lists a directory and all below.
func (b *browser) SearchDatastoreSubFoldersTask(
	req *types.SearchDatastoreSubFolders_Task,
) soap.HasFault {
	what := func() (types.AnyType, types.BaseMethodFault) {
		found, fault := b.search(req.DatastorePath, req.SearchSpec, true)
		if fault != nil {
			return nil, fault
		}
		return types.ArrayOfHostDatastoreBrowserSearchResults{
			HostDatastoreBrowserSearchResults: found,
		}, nil
	}
	return &methods.SearchDatastoreSubFolders_TaskBody{
		Res: &types.SearchDatastoreSubFolders_TaskResponse{
			Returnval: b.server.start(b.store.Self, "SearchDatastoreSubFolders_Task", what),
		},
	}
}

func (b *browser) search(
	where string, spec *types.HostDatastoreBrowserSearchSpec, deep bool,
) ([]types.HostDatastoreBrowserSearchResults, types.BaseMethodFault) {
	var parsed object.DatastorePath
	if !parsed.FromString(where) {
		return nil, &types.InvalidDatastorePath{DatastorePath: where}
	}
	if parsed.Datastore != b.store.Name {
		return nil, &types.InvalidDatastore{Name: parsed.Datastore}
	}
	if spec == nil {
		spec = &types.HostDatastoreBrowserSearchSpec{}
	}
	directory := path.Clean("/" + parsed.Path)
	entries, err := os.ReadDir(filepath.Join(b.store.root, directory))
	if err != nil {
		return nil, file{named: where}.fault(err)
	}
	folder := "[" + b.store.Name + "] "
	if directory != "/" {
		folder += directory[1:] + "/"
	}
	here := types.HostDatastoreBrowserSearchResults{Datastore: &b.store.Self, FolderPath: folder}
	found := []types.HostDatastoreBrowserSearchResults{here}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && matches(spec, info) {
			found[0].File = append(found[0].File, describe(spec.Details, info))
		}
		if deep && entry.IsDir() {
			more, _ := b.search(strings.TrimSuffix(folder, " ")+" "+entry.Name(), spec, true)
			found = append(found, more...)
		}
	}
	return found, nil
}

// matches tells whether a search is for a file: without patterns and queries it is for all.
func matches(spec *types.HostDatastoreBrowserSearchSpec, info os.FileInfo) bool {
	named := len(spec.MatchPattern) == 0
	for _, pattern := range spec.MatchPattern {
		if ok, _ := path.Match(pattern, info.Name()); ok {
			named = true
		}
	}
	wanted := len(spec.Query) == 0
	for _, query := range spec.Query {
		switch query.(type) {
		case *types.FileQuery:
			wanted = true
		case *types.FolderFileQuery:
			wanted = wanted || info.IsDir()
		}
	}
	return named && wanted
}

func describe(flags *types.FileQueryFlags, info os.FileInfo) types.BaseFileInfo {
	about := types.FileInfo{Path: info.Name()}
	if flags != nil && flags.FileSize && !info.IsDir() {
		about.FileSize = info.Size()
	}
	if flags != nil && flags.Modification {
		changed := info.ModTime().UTC()
		about.Modification = &changed
	}
	if info.IsDir() && flags != nil && flags.FileType {
		return &types.FolderFileInfo{FileInfo: about}
	}
	return &about
}
