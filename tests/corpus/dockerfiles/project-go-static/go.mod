module fastlayer.invalid/hello
