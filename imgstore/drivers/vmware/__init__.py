"""Images on datastores of VMware vSphere."""
