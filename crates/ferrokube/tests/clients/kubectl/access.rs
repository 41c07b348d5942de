//! Who may do what: roles, impersonation, tokens, certificates that kubectl approves, and the kubeconfig they end up in.

use super::Kubectl;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub async fn whole(kubectl: &Kubectl<'_>) -> Result<()> {
    identity(kubectl).await?;
    roles(kubectl).await?;
    tokens(kubectl).await?;
    certificates(kubectl).await
}

async fn identity(kubectl: &Kubectl<'_>) -> Result<()> {
    let me = kubectl.run("auth whoami").await?;
    ensure!(me.contains("kubernetes-admin") && me.contains("[kubeadm:cluster-admins system:authenticated]"), "{me}");
    ensure!(me.contains("Extra: authentication.kubernetes.io/credential-id   [X509SHA256="), "{me}");
    kubectl.says("auth can-i delete nodes", "yes").await?;
    kubectl.says("auth whoami --as=jane --as-group=dev -o jsonpath={.status.userInfo.username}", "jane").await?;
    kubectl.says("config current-context", "ferrokube").await
}

async fn roles(kubectl: &Kubectl<'_>) -> Result<()> {
    kubectl.run("create serviceaccount bob").await?;
    kubectl.run("create role reader --verb=get,list --resource=pods,deployments.apps").await?;
    kubectl.run("create rolebinding readers --role=reader --serviceaccount=default:bob").await?;
    let bob = "--as=system:serviceaccount:default:bob";
    kubectl.comes_to_say(&format!("auth can-i list pods {bob}"), "yes").await?;
    let no = kubectl.fails(&format!("auth can-i create pods {bob}")).await?;
    ensure!(no.contains("no"), "{no}");
    kubectl.says(&format!("auth can-i --list {bob}"), "deployments.apps").await?;
    let forbidden = kubectl.fails(&format!("get secrets {bob}")).await?;
    let words = "Error from server (Forbidden): secrets is forbidden: User \"system:serviceaccount:default:bob\" cannot list resource \"secrets\" \
                 in API group \"\" in the namespace \"default\"";
    ensure!(forbidden.contains(words), "{forbidden}");
    kubectl.says("describe role reader", "deployments.apps  []                 []              [get list]").await?;
    kubectl.says("describe rolebinding readers", "ServiceAccount  bob   default").await?;
    let rules = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\n\
                 rules: [{apiGroups: [''], resources: [services], verbs: [watch]}]\n";
    let reconciled = kubectl.feed("auth reconcile -f -", rules).await?;
    ensure!(reconciled.contains("role.rbac.authorization.k8s.io/reader reconciled"), "{reconciled}");
    kubectl.comes_to_say(&format!("auth can-i watch services {bob}"), "yes").await?;
    let escalated = kubectl.fails(&format!("create role more --verb=get --resource=secrets {bob}")).await?;
    ensure!(escalated.contains("Forbidden"), "{escalated}");
    Ok(())
}

async fn tokens(kubectl: &Kubectl<'_>) -> Result<()> {
    let token = kubectl.run("create token bob --duration=10m").await?;
    let server = kubectl.run("config view --minify -o jsonpath={.clusters[0].cluster.server}").await?;
    let server = server.trim();
    // A kubeconfig of his own, so that the administrator's certificate does not speak for him.
    let own = kubectl.plane.file("bob.kubeconfig", "")?.display().to_string();
    let ca = kubectl.run("config view --raw --minify -o jsonpath={.clusters[0].cluster.certificate-authority-data}").await?;
    let ca = STANDARD.decode(ca.trim()).context("the CA of the kubeconfig")?;
    let ca = kubectl.plane.file("ca.crt", &String::from_utf8_lossy(&ca))?.display().to_string();
    let with = async |args: &str| kubectl.run(&format!("--kubeconfig={own} {args}")).await;
    with(&format!("config set-cluster c --server={server} --certificate-authority={ca} --embed-certs")).await?;
    with(&format!("config set-credentials bob --token={}", token.trim())).await?;
    with("config set-context c --cluster=c --user=bob").await?;
    with("config use-context c").await?;
    let me = with("auth whoami").await?;
    ensure!(me.contains("system:serviceaccount:default:bob") && me.contains("system:serviceaccounts:default"), "{me}");
    ensure!(with("get pods").await?.contains("No resources found in default namespace."), "he may list pods");
    let wrong = kubectl.fails(&format!("--kubeconfig={own} --token=nonsense get pods")).await?;
    ensure!(wrong.contains("Unauthorized"), "{wrong}");
    Ok(())
}

async fn certificates(kubectl: &Kubectl<'_>) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let mut wanted = rcgen::CertificateParams::default();
    wanted.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    wanted.distinguished_name.push(rcgen::DnType::OrganizationName, "dev");
    let request = STANDARD.encode(wanted.serialize_request(&key)?.pem()?);
    let request = |name: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\n\
             spec: {{request: {request}, signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600}}\n"
        )
    };
    kubectl.feed("create -f -", &request("jane")).await?;
    kubectl.says("get csr jane", "kubernetes-admin   60m                 Pending").await?;
    kubectl.says("describe csr jane", "Common Name:    jane").await?;
    kubectl.says("certificate approve jane", "certificatesigningrequest.certificates.k8s.io/jane approved").await?;
    kubectl.run("wait csr/jane --for=jsonpath={.status.certificate} --timeout=60s").await?;
    kubectl.says("get csr jane", "Approved,Issued").await?;
    let certificate = kubectl.run("get csr jane -o jsonpath={.status.certificate}").await?;
    let certificate = STANDARD.decode(certificate.trim()).context("the certificate")?;
    let certificate = kubectl.plane.file("jane.crt", &String::from_utf8_lossy(&certificate))?;
    let key = kubectl.plane.file("jane.key", &key.serialize_pem())?;
    let as_jane = format!("--client-certificate={} --client-key={} auth whoami", certificate.display(), key.display());
    let me = kubectl.run(&as_jane).await?;
    ensure!(me.contains("jane") && me.contains("[dev system:authenticated]"), "{me}");
    kubectl.feed("create -f -", &request("other")).await?;
    kubectl.run("certificate deny other").await?;
    kubectl.says("get csr other", "Denied").await
}
