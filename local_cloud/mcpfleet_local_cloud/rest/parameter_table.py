"""The query parameters of every method that this cloud serves, from Google's discovery documents of 2026-10-31.

Below a path each line is a method: `VERB rest-of-the-path parameter…`. A parameter is a string; `:int` and `:bool` say
otherwise, `*` that it may be repeated. `!`: Google has it, and it is refused here unless it is empty. `-`: it changes
nothing here (`requestId`: every change is made at once; `projection`: there are no access control lists to leave out).
"""

from collections.abc import Mapping
from typing import Final

SYSTEM: Final = (
    "$.xgafv- access_token! alt $alt callback! fields $fields! key- oauth_token! prettyPrint:bool- $prettyPrint:bool- "
    "quotaUser- $userProject- uploadType upload_protocol- userIp-"
)
"""What every method has (cloud.google.com/apis/docs/system-parameters). A token belongs into the header."""

_PROJECT: Final = "/projects/{project}"
_LOCATION: Final = _PROJECT + "/locations/{location}"
_IAM: Final = """
GET :getIamPolicy options.requestedPolicyVersion:int-
POST :setIamPolicy
POST :testIamPermissions
"""
_IAM_BY_POST: Final = _IAM.replace("GET :getIamPolicy", "POST :getIamPolicy")
_DELETABLE: Final = "GET pageSize:int pageToken showDeleted:bool"
_USAGE: Final = """
GET filter pageSize:int pageToken
POST :batchEnable
GET /{service}
POST /{service}:enable
POST /{service}:disable
POST /{service}:generateServiceIdentity
"""
_COMPUTE: Final = """
GET /operations/{operation}
POST /operations/{operation}/wait
POST /{collection} requestId-
GET /{collection} filter! maxResults:int- orderBy! pageToken! returnPartialSuccess:bool-
GET /{collection}/{name}
PUT /{collection}/{name} requestId-
PATCH /{collection}/{name} requestId-
DELETE /{collection}/{name} requestId-
POST /{collection}/{name}/{setter} requestId-
"""
_BUILDS: Final = """
POST /builds parent! projectId-
GET /builds filter! pageSize:int pageToken parent! projectId-
GET /builds/{build} id- name- projectId-
POST /builds/{build}:cancel
"""
_CONDITIONS: Final = (
    "ifGenerationMatch:int ifGenerationNotMatch:int ifMetagenerationMatch:int ifMetagenerationNotMatch:int"
)
_BUCKET_CONDITIONS: Final = "ifMetagenerationMatch:int ifMetagenerationNotMatch:int projection- userProject-"
_OBJECT: Final = f"generation:int {_CONDITIONS} projection- userProject-"
_UPLOAD: Final = f"{_CONDITIONS} contentEncoding! kmsKeyName! name predefinedAcl! projection- userProject- upload_id"

TABLE: Final[Mapping[str, str]] = {
    f"/serviceusage/v1{_PROJECT}/services": _USAGE,
    f"/serviceusage/v1beta1{_PROJECT}/services": _USAGE,
    "/serviceusage": "GET /v1/operations/{operation}\nGET /v1beta1/operations/{operation}",
    f"/crm/v1{_PROJECT}": f"GET\nPOST :getAncestry{_IAM_BY_POST}",
    "/crm": "GET /v3/projects/{project}\nGET /v1/projects filter pageSize:int pageToken",
    f"/iam/v1{_PROJECT}/serviceAccounts": "POST\nGET pageSize:int pageToken",
    f"/iam/v1{_PROJECT}/serviceAccounts/{{account}}": f"""
        {_IAM_BY_POST}
        GET
        PATCH
        DELETE
        POST :enable
        POST :disable
        POST /keys
        GET /keys keyTypes*
        GET /keys/{{key}} publicKeyType
        DELETE /keys/{{key}}
    """,
    f"/iam/v1{_LOCATION}/workloadIdentityPools": f"""
        POST workloadIdentityPoolId
        {_DELETABLE}
        GET /{{pool}}/operations/{{operation}}
        GET /{{pool}}
        PATCH /{{pool}} updateMask
        DELETE /{{pool}}
        POST /{{pool}}:undelete
    """,
    f"/iam/v1{_LOCATION}/workloadIdentityPools/{{pool}}/providers": f"""
        POST workloadIdentityPoolProviderId
        {_DELETABLE}
        GET /{{provider}}/operations/{{operation}}
        GET /{{provider}}
        PATCH /{{provider}} updateMask
        DELETE /{{provider}}
        POST /{{provider}}:undelete
    """,
    "/sts/v1": "POST /token",
    f"/iamcredentials/v1{_PROJECT}/serviceAccounts/{{account}}": "POST :generateAccessToken\nPOST :generateIdToken",
    "/billing/v1": "GET /projects/{project}/billingInfo",
    f"/artifactregistry/v1{_LOCATION}": """
        POST /repositories repositoryId
        GET /repositories filter! orderBy! pageSize:int- pageToken!
        GET /operations/{operation}
    """,
    f"/artifactregistry/v1{_LOCATION}/repositories/{{repository}}": f"""
        {_IAM}
        GET
        PATCH updateMask
        DELETE
        GET /dockerImages orderBy! pageSize:int- pageToken!
    """,
    f"/secretmanager/v1{_PROJECT}/secrets": "POST secretId\nGET filter! pageSize:int pageToken",
    f"/secretmanager/v1{_PROJECT}/secrets/{{secret}}": f"""
        {_IAM}
        GET
        PATCH updateMask
        DELETE etag
        POST :addVersion
        GET /versions filter! pageSize:int pageToken
        GET /versions/{{version}}
        GET /versions/{{version}}:access
        POST /versions/{{version}}:enable
        POST /versions/{{version}}:disable
        POST /versions/{{version}}:destroy
    """,
    f"/iap/v1{_PROJECT}/iap_web/{{kind}}/services/{{service}}": f"""
        {_IAM_BY_POST}
        GET :iapSettings
        PATCH :iapSettings updateMask
    """,
    f"/agentregistry/v1{_LOCATION}": """
        POST /services requestId- serviceId
        GET /services filter! pageSize:int- pageToken!
        GET /services/{service}
        PATCH /services/{service} requestId- updateMask
        DELETE /services/{service} requestId-
        GET /operations/{operation}
    """,
    f"/compute/v1{_PROJECT}": "GET\nPOST /{collection}/{name}/{setter} requestId-",
    f"/compute/v1{_PROJECT}/global": _COMPUTE,
    f"/compute/v1{_PROJECT}/regions/{{region}}": _COMPUTE,
    f"/dns/v1{_PROJECT}/managedZones": """
        POST clientOperationId-
        GET dnsName! maxResults:int- pageToken!
        GET /{zone} clientOperationId-
        PUT /{zone} clientOperationId-
        PATCH /{zone} clientOperationId-
        DELETE /{zone} clientOperationId-
        GET /{zone}/rrsets filter! maxResults:int- name pageToken! type
        POST /{zone}/changes clientOperationId-
        GET /{zone}/changes/{change} clientOperationId-
    """,
    f"/networkservices/v1{_LOCATION}": """
        POST /meshes meshId
        GET /meshes pageSize:int- pageToken! returnPartialSuccess:bool-
        GET /meshes/{name}
        PATCH /meshes/{name} updateMask
        DELETE /meshes/{name}
        POST /httpRoutes httpRouteId requestId-
        GET /httpRoutes filter! pageSize:int- pageToken! returnPartialSuccess:bool-
        GET /httpRoutes/{name}
        PATCH /httpRoutes/{name} updateMask
        DELETE /httpRoutes/{name}
        GET /operations/{operation}
    """,
    f"/cloudbuild/v1{_PROJECT}": _BUILDS,
    f"/cloudbuild/v1{_LOCATION}": f"{_BUILDS}\nGET /operations/{{operation}}\nPOST /operations/{{operation}}:cancel",
    "/logging/v2": "POST /entries:list",
    "/storage/v1/b": """
        POST enableObjectRetention:bool! predefinedAcl! predefinedDefaultObjectAcl! project projection- userProject-
        GET maxResults:int- pageToken! prefix project projection- returnPartialSuccess:bool- softDeleted:bool! \
            userProject-
    """,
    "/storage/v1/b/{bucket}": f"""
        GET generation:int! softDeleted:bool! {_BUCKET_CONDITIONS}
        PATCH predefinedAcl! predefinedDefaultObjectAcl! {_BUCKET_CONDITIONS}
        DELETE {_BUCKET_CONDITIONS}
        GET /iam optionsRequestedPolicyVersion:int- userProject-
        PUT /iam userProject-
        GET /iam/testPermissions permissions* userProject-
    """,
    "/storage/v1/b/{bucket}/o": f"""
        GET delimiter endOffset! filter! includeFoldersAsPrefixes:bool- includeTrailingDelimiter:bool! matchGlob! \
            maxResults:int pageToken prefix projection- softDeleted:bool! startOffset! userProject- versions:bool-
        GET /{{object:path}} restoreToken! softDeleted:bool! {_OBJECT}
        PATCH /{{object:path}} overrideUnlockedRetention:bool- predefinedAcl! {_OBJECT}
        DELETE /{{object:path}} {_OBJECT}
    """,
    "/upload/storage/v1/b/{bucket}/o": f"POST {_UPLOAD}\nPUT {_UPLOAD}\nDELETE {_UPLOAD}",
    "/download/storage/v1/b/{bucket}/o": f"GET /{{object:path}} restoreToken! softDeleted:bool! {_OBJECT}",
    f"/run/v2{_LOCATION}/services": """
        POST serviceId validateOnly:bool
        GET pageSize:int pageToken showDeleted:bool-
    """,
    f"/run/v2{_LOCATION}/services/{{service}}": f"""
        {_IAM}
        GET
        PATCH allowMissing:bool forceNewRevision:bool updateMask validateOnly:bool
        DELETE etag validateOnly:bool
        GET /revisions pageSize:int pageToken showDeleted:bool-
        GET /revisions/{{revision}}
        DELETE /revisions/{{revision}} etag validateOnly:bool
    """,
    "/run/v2": f"""
        GET {_PROJECT}/locations filter! pageSize:int pageToken
        GET {_LOCATION}/operations filter! pageSize:int pageToken returnPartialSuccess:bool-
        POST {_LOCATION}/operations/{{operation}}:wait
        GET {_LOCATION}/operations/{{operation}}
    """,
}
