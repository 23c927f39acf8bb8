"""A mesh as infra/pulumi_mcpfleet/components/service_mesh.py makes it, in a cloud in memory."""

from mcpfleet_local_cloud.identity.metadata import Workload

PROJECT = "projects/mcpfleet-local"
NETWORK = f"{PROJECT}/global/networks/default"
MESH = f"{PROJECT}/locations/global/meshes/fleet"
ACCOUNT = f"mcp-client@{PROJECT[9:]}.iam.gserviceaccount.com"
HOST = "hello-481516234200.europe-west1.run.app"
SERVICES = f"/run/v2/{PROJECT}/locations/europe-west1/services"
ROUTES = f"/networkservices/v1/{PROJECT}/locations/global/httpRoutes"
MESHES = f"/networkservices/v1/{PROJECT}/locations/global/meshes"
ZONES = f"/dns/v1/{PROJECT}/managedZones"
BACKENDS = f"/compute/v1/{PROJECT}/global/backendServices"
GROUP_KIND = "gcp:compute/regionNetworkEndpointGroup:RegionNetworkEndpointGroup"
BACKEND_KIND = "gcp:compute/backendService:BackendService"
MESH_KIND = "gcp:networkservices/mesh:Mesh"
ROUTE_KIND = "gcp:networkservices/httpRoute:HttpRoute"
ZONE_KIND = "gcp:dns/managedZone:ManagedZone"
RECORD_KIND = "gcp:dns/recordSet:RecordSet"
APIS = ("run", "iam", "compute", "dns", "networkservices", "networksecurity", "trafficdirector")
PRIVATE = {"visibility": "private", "privateVisibilityConfig": {"networks": [{"networkUrl": NETWORK}]}}
CALLER = Workload(
    service_account=ACCOUNT,
    project="mcpfleet-local",
    region="europe-west1",
    instance_id="1",
    network=NETWORK,
    mesh=MESH,
)


def service(api, name="hello", **more):
    body = {"template": {"containers": [{"image": "docker.io/acme/hello:1"}], **more.pop("template", {})}, **more}
    answer = api.call("POST", f"{SERVICES}?serviceId={name}", body)
    if answer.status_code != 200:
        return answer
    return api.call("POST", f"/run/v2/{answer.json()['name']}:wait", {})


def mesh_resources(program, service="hello", host="mcp-hello"):
    """The resources that components.service_mesh creates for a server: kind, inputs and the resource, in order."""
    made = []

    def create(kind, inputs):
        made.append((kind, inputs, program.create(kind, inputs)))
        return made[-1][2].resource_id

    mesh = create(MESH_KIND, {"name": "fleet"})
    group = create(
        GROUP_KIND,
        {
            "name": "mcp",
            "region": "europe-west1",
            "networkEndpointType": "SERVERLESS",
            "cloudRun": {"service": service},
        },
    )
    scheme = {"loadBalancingScheme": "INTERNAL_SELF_MANAGED"}
    create(BACKEND_KIND, {"name": "mcp", "backends": [{"group": group}], **scheme})
    destination = {"serviceName": f"{PROJECT}/locations/global/backendServices/mcp"}
    rules = [{"action": {"destinations": [destination]}}]
    create(ROUTE_KIND, {"name": "mcp", "hostnames": [host], "meshes": [mesh], "rules": rules})
    visible = {"networks": [{"networkUrl": NETWORK}]}
    create(
        ZONE_KIND,
        {"name": "mcp", "dnsName": f"{host}.", "visibility": "private", "privateVisibilityConfig": visible},
    )
    create(
        RECORD_KIND,
        {"managedZone": "mcp", "name": f"{host}.", "type": "A", "ttl": 300, "rrdatas": ["10.0.0.1"]},
    )
    return made


def prepared(running):
    """The cloud with the APIs of a mesh, and the account of a client."""
    running.enable(*APIS)
    made = running.call("POST", f"/iam/v1/{PROJECT}/serviceAccounts", {"accountId": "mcp-client"})
    assert made.status_code == 200
    return running
