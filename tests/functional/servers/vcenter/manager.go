package main

import (
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// files makes changes of names one after the other, and knows what is being written.
type files struct {
	mu      sync.Mutex
	writing map[string]bool
	disk    sync.RWMutex // held to write while files are counted, to read while they change
}

// lock claims a file for one writer.
func (f *files) lock(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.writing[name] {
		return false
	}
	if f.writing == nil {
		f.writing = map[string]bool{}
	}
	f.writing[name] = true
	return true
}

func (f *files) unlock(name string) {
	f.mu.Lock()
	delete(f.writing, name)
	f.mu.Unlock()
}

// manager is the FileManager: its tasks take time, and nothing leaves its datastore.
type manager struct {
	simulator.FileManager
	server *server
}

func newManager(s *server, self types.ManagedObjectReference) *manager {
	m := &manager{server: s}
	m.Self = self
	return m
}

// file is what a path of the API names: "[datastore] path/to/file".
type file struct {
	*store
	full  string // in our file system
	named string // as it was asked for
}

func (m *manager) resolve(dc *types.ManagedObjectReference, name string) (file, types.BaseMethodFault) {
	var parsed object.DatastorePath
	if !parsed.FromString(name) {
		return file{}, &types.InvalidDatastorePath{DatastorePath: name}
	}
	if dc == nil {
		return file{}, &types.InvalidArgument{InvalidProperty: "datacenter"}
	}
	d := m.server.find(*dc, parsed.Datastore)
	if d == nil {
		return file{}, &types.InvalidDatastore{Name: parsed.Datastore}
	}
	if !accessible(d) {
		return file{}, &types.InaccessibleDatastore{
			InvalidDatastore: types.InvalidDatastore{Datastore: &d.Self, Name: d.Name},
		}
	}
	inside := path.Clean("/" + parsed.Path)
	if inside == "/" {
		return file{}, &types.InvalidDatastorePath{DatastorePath: name}
	}
	return file{d, filepath.Join(d.root, inside), name}, nil
}

func (f file) fault(err error) types.BaseMethodFault {
	about := types.FileFault{File: f.named}
	switch {
	case os.IsNotExist(err):
		return &types.FileNotFound{FileFault: about}
	case os.IsExist(err):
		return &types.FileAlreadyExists{FileFault: about}
	}
	return &types.CannotAccessFile{FileFault: about}
}

func (m *manager) remove(f file) types.BaseMethodFault {
	m.server.files.mu.Lock()
	defer m.server.files.mu.Unlock()
	m.server.disk.RLock()
	defer m.server.disk.RUnlock()
	if _, err := os.Stat(f.full); err != nil {
		return f.fault(err)
	}
	if m.server.writing[f.full] {
		return &types.FileLocked{FileFault: types.FileFault{File: f.named}}
	}
	freed := size(f.full)
	if err := os.RemoveAll(f.full); err != nil {
		return f.fault(err)
	}
	f.take(-freed)
	return nil
}

func (m *manager) move(from, to file, force bool) types.BaseMethodFault {
	m.server.files.mu.Lock()
	defer m.server.files.mu.Unlock()
	m.server.disk.RLock()
	defer m.server.disk.RUnlock()
	if _, err := os.Stat(from.full); err != nil {
		return from.fault(err)
	}
	if m.server.writing[from.full] || m.server.writing[to.full] {
		return &types.FileLocked{FileFault: types.FileFault{File: from.named}}
	}
	if _, err := os.Stat(filepath.Dir(to.full)); err != nil {
		return to.fault(err)
	}
	if _, err := os.Stat(to.full); err == nil && !force {
		return to.fault(os.ErrExist)
	}
	moved, replaced := size(from.full), size(to.full)
	if from.store != to.store && !to.take(moved-replaced) {
		about := types.FileFault{File: to.named}
		return &types.NoDiskSpace{FileFault: about, Datastore: to.Name}
	}
	if err := os.Rename(from.full, to.full); err != nil {
		if from.store != to.store {
			to.take(replaced - moved)
		}
		return to.fault(err)
	}
	if from.store != to.store {
		from.take(-moved)
	} else {
		from.take(-replaced)
	}
	return nil
}

// DeleteDatastoreFileTask removes a file, or a directory with all that is in it.
func (m *manager) DeleteDatastoreFileTask(req *types.DeleteDatastoreFile_Task) soap.HasFault {
	task := m.run(req.Datacenter, "DeleteDatastoreFile_Task", func() types.BaseMethodFault {
		f, fault := m.resolve(req.Datacenter, req.Name)
		if fault != nil {
			return fault
		}
		return m.remove(f)
	})
	return &methods.DeleteDatastoreFile_TaskBody{
		Res: &types.DeleteDatastoreFile_TaskResponse{Returnval: task},
	}
}

// MoveDatastoreFileTask gives a file another name; without force never that of another file.
func (m *manager) MoveDatastoreFileTask(req *types.MoveDatastoreFile_Task) soap.HasFault {
	task := m.runFor("MoveDatastoreFile_Task", request(*req), m.move)
	return &methods.MoveDatastoreFile_TaskBody{
		Res: &types.MoveDatastoreFile_TaskResponse{Returnval: task},
	}
}

// CopyDatastoreFileTask writes a file anew under another name, which none may have without force.
func (m *manager) CopyDatastoreFileTask(req *types.CopyDatastoreFile_Task) soap.HasFault {
	task := m.runFor("CopyDatastoreFile_Task", request(*req), m.copy)
	return &methods.CopyDatastoreFile_TaskBody{
		Res: &types.CopyDatastoreFile_TaskResponse{Returnval: task},
	}
}

// request is what asks for a file to be had under another name.
type request types.MoveDatastoreFileRequestType

// runFor runs a task that has a file under another name.
func (m *manager) runFor(
	method string, req request, what func(from, to file, force bool) types.BaseMethodFault,
) types.ManagedObjectReference {
	target := req.DestinationDatacenter
	if target == nil {
		target = req.SourceDatacenter
	}
	return m.run(req.SourceDatacenter, method, func() types.BaseMethodFault {
		from, fault := m.resolve(req.SourceDatacenter, req.SourceName)
		if fault != nil {
			return fault
		}
		to, fault := m.resolve(target, req.DestinationName)
		if fault != nil {
			return fault
		}
		return what(from, to, req.Force != nil && *req.Force)
	})
}

func (m *manager) copy(from, to file, force bool) types.BaseMethodFault {
	m.server.files.mu.Lock()
	defer m.server.files.mu.Unlock()
	m.server.disk.RLock()
	defer m.server.disk.RUnlock()
	if _, err := os.Stat(to.full); err == nil && !force {
		return to.fault(os.ErrExist)
	}
	data, err := os.ReadFile(from.full)
	if err != nil {
		return from.fault(err)
	}
	if !to.take(int64(len(data)) - size(to.full)) {
		about := types.FileFault{File: to.named}
		return &types.NoDiskSpace{FileFault: about, Datastore: to.Name}
	}
	if err := os.WriteFile(to.full, data, 0o600); err != nil {
		return to.fault(err)
	}
	return nil
}

func (m *manager) run(
	dc *types.ManagedObjectReference, method string, what func() types.BaseMethodFault,
) types.ManagedObjectReference {
	var entity types.ManagedObjectReference
	if dc != nil {
		entity = *dc
	} else {
		entity = above(m.server.stores[0].Datastore, "Datacenter")
	}
	return m.server.start(entity, method, func() (types.AnyType, types.BaseMethodFault) {
		return nil, what()
	})
}

// MakeDirectory makes a directory, which must not be there yet.
func (m *manager) MakeDirectory(req *types.MakeDirectory) soap.HasFault {
	body := &methods.MakeDirectoryBody{}
	f, fault := m.resolve(req.Datacenter, req.Name)
	if fault == nil {
		m.server.files.mu.Lock()
		defer m.server.files.mu.Unlock()
		if req.CreateParentDirectories != nil && *req.CreateParentDirectories {
			os.MkdirAll(filepath.Dir(f.full), 0o700)
		}
		if err := os.Mkdir(f.full, 0o700); err != nil {
			fault = f.fault(err)
		}
	}
	if fault != nil {
		body.Fault_ = simulator.Fault("", fault)
		return body
	}
	body.Res = new(types.MakeDirectoryResponse)
	return body
}
