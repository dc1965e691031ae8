// A daemon's door that speaks another version of the protocol, for tests that need one as a process of its own:
//     other_version_daemon SOCKET refuse|answer
// "refuse": it turns ranks away, as a daemon does. "answer": it lets them in and says its version, as a careless one would.
// Serves until its standard input ends.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "muond/v1/daemon.grpc.pb.h"
#include "proto/stubs/grpc_status.h"
#include "proto/types/convert.h"
#include "proto/types/version.h"

namespace muond {
namespace {

const ProtocolVersion kOther = {kProtocolMajor + 1, 7, "99.5.0"};

class OtherDaemon final : public v1::Daemon::Service {
 public:
  explicit OtherDaemon(bool refuses) : refuses_(refuses) {}

  grpc::Status Join(grpc::ServerContext*, const v1::JoinRequest* request,
                    v1::JoinResponse* response) override {
    const absl::Status fits = CheckVersion(FromProto(request->version()), "the client", kOther);
    if (refuses_ && !fits.ok()) return ToGrpc(fits);
    ToProto(JoinReply{kOther, 5, 6, 1, 1, 1}, response);
    return grpc::Status::OK;
  }

 private:
  const bool refuses_;
};

int Serve(const std::string& socket, bool refuses) {
  OtherDaemon daemon(refuses);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.RegisterService(&daemon);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::puts("serves");
  std::fflush(stdout);
  char byte;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  server->Shutdown();
  return 0;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s SOCKET refuse|answer\n", argv[0]);
    return 2;
  }
  return muond::Serve(argv[1], std::string(argv[2]) == "refuse");
}
