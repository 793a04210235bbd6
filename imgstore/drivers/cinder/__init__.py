"""Images as volumes of OpenStack Block Storage (Cinder)."""
