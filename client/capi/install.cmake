# What `cmake --install` carries of the library, and the Python package of everything (programs install themselves otherwise).
# Included last by the top level: every program is a target by then.
include(CMakePackageConfigHelpers)

set(muond_programs "")
foreach(program muond muond-coordinator muonctl)
  if(TARGET ${program})
    list(APPEND muond_programs ${program})
  endif()
endforeach()

set(muond_package ${CMAKE_INSTALL_LIBDIR}/cmake/muond)
install(TARGETS muond_capi EXPORT muond
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development NAMELINK_COMPONENT development)
install(FILES ${PROJECT_SOURCE_DIR}/client/capi/muond.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(EXPORT muond NAMESPACE muond:: FILE muondConfig.cmake DESTINATION ${muond_package} COMPONENT development)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/muondConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/muondConfigVersion.cmake DESTINATION ${muond_package} COMPONENT development)

# The wheel: the library without its links (wheels have none), the programs beside it.
install(FILES $<TARGET_FILE:muond_capi> DESTINATION muond RENAME libmuond.so COMPONENT python EXCLUDE_FROM_ALL)
install(FILES $<TARGET_FILE:muond_kernels> DESTINATION muond COMPONENT python EXCLUDE_FROM_ALL)
foreach(program ${muond_programs})
  install(PROGRAMS $<TARGET_FILE:${program}> DESTINATION muond/bin COMPONENT python EXCLUDE_FROM_ALL)
endforeach()
add_custom_target(muond_python_package DEPENDS muond_capi muond_kernels ${muond_programs})
