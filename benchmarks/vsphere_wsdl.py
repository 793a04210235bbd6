"""What oslo.vmware asks a vCenter Server for and the simulator lacks: a description of the API.

It describes the operations that the incumbent calls, with the types that oslo.vmware comes with.
"""

from __future__ import annotations

from pathlib import Path

_TEXT, _FLAG, _OBJECT = "xsd:string", "xsd:boolean", "vim:ManagedObjectReference"
# Operation: its parameters as name, type and "?" (may be left out) or "*" (many); what it returns.
_OPERATIONS: dict[str, tuple[tuple[tuple[str, str, str], ...], str]] = {
    "RetrieveServiceContent": ((), "vim:ServiceContent"),
    "Login": (
        (("userName", _TEXT, ""), ("password", _TEXT, ""), ("locale", _TEXT, "?")),
        "vim:UserSession",
    ),
    "Logout": ((), ""),
    "SessionIsActive": ((("sessionID", _TEXT, ""), ("userName", _TEXT, "")), _FLAG),
    "FindByInventoryPath": ((("inventoryPath", _TEXT, ""),), _OBJECT),
    "RetrievePropertiesEx": (
        (("specSet", "vim:PropertyFilterSpec", "*"), ("options", "vim:RetrieveOptions", "")),
        "vim:RetrieveResult",
    ),
    "ContinueRetrievePropertiesEx": ((("token", _TEXT, ""),), "vim:RetrieveResult"),
    "CancelRetrievePropertiesEx": ((("token", _TEXT, ""),), ""),
    "DeleteDatastoreFile_Task": (
        (("name", _TEXT, ""), ("datacenter", _OBJECT, "?")),
        _OBJECT,
    ),
}
_OCCURS = {"": "", "?": ' minOccurs="0"', "*": ' maxOccurs="unbounded"'}
_NAMES = (
    'xmlns="http://schemas.xmlsoap.org/wsdl/" xmlns:soap="http://schemas.xmlsoap.org/wsdl/soap/" '
    'xmlns:vim="urn:vim25" xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
)


def write(directory: Path, types: Path) -> None:
    """Write the description, with links to the `.xsd` files in `types`."""
    directory.mkdir()
    for path in types.glob("*types.xsd"):
        if not path.name.startswith("pbm"):
            (directory / path.name).symlink_to(path)
    (directory / "vim.wsdl").write_text(_interface())
    (directory / "vimService.wsdl").write_text(
        f'<definitions targetNamespace="urn:vim25Service" {_NAMES} xmlns:api="urn:vim25">'
        '<import location="vim.wsdl" namespace="urn:vim25"/>'
        '<service name="VimService"><port binding="api:VimBinding" name="VimPort">'
        '<soap:address location="https://localhost/sdk/vimService"/></port></service>'
        "</definitions>"
    )


def _interface() -> str:
    schema = "".join(map(_elements, _OPERATIONS))
    messages = "".join(
        f'<message name="{name}{kind}Msg"><part name="parameters" element="vim:{name}{suffix}"/>'
        "</message>"
        for name in _OPERATIONS
        for kind, suffix in (("Request", ""), ("Response", "Response"))
    )
    port = "".join(
        f'<operation name="{name}"><input message="vim:{name}RequestMsg"/>'
        f'<output message="vim:{name}ResponseMsg"/></operation>'
        for name in _OPERATIONS
    )
    body = '<soap:body use="literal"/>'
    binding = "".join(
        f'<operation name="{name}"><soap:operation soapAction="urn:vim25/6.5" style="document"/>'
        f"<input>{body}</input><output>{body}</output></operation>"
        for name in _OPERATIONS
    )
    return (
        f'<definitions targetNamespace="urn:vim25" {_NAMES}><types><schema '
        'targetNamespace="urn:vim25" xmlns="http://www.w3.org/2001/XMLSchema" '
        'elementFormDefault="qualified"><include schemaLocation="vim-types.xsd"/>'
        f'{schema}</schema></types>{messages}<portType name="VimPortType">{port}</portType>'
        '<binding name="VimBinding" type="vim:VimPortType"><soap:binding style="document" '
        f'transport="http://schemas.xmlsoap.org/soap/http"/>{binding}</binding></definitions>'
    )


def _elements(name: str) -> str:
    parameters, returned = _OPERATIONS[name]
    given = "".join(
        f'<element name="{each}" type="{kind}"{_OCCURS[occurs]}/>'
        for each, kind, occurs in (("_this", _OBJECT, ""), *parameters)
    )
    result = f'<element name="returnval" type="{returned}" minOccurs="0"/>' if returned else ""
    return (
        f'<complexType name="{name}RequestType"><sequence>{given}</sequence></complexType>'
        f'<element name="{name}" type="vim:{name}RequestType"/><element name="{name}Response">'
        f"<complexType><sequence>{result}</sequence></complexType></element>"
    )
